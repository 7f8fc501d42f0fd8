// A small C++17 wrapper of fastopt.h: an optimizer of float parameters that owns its state.
#pragma once

#include <fastopt.h>

#include <deque>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

class Optimizer
{
  public:
    // Hyperparameters by their names; fastopt_find_rule(rule)->hyper lists them.
    Optimizer(const std::string &rule, const std::vector<std::pair<std::string, double>> &hyper)
        : rule_(fastopt_find_rule(rule.c_str()))
    {
        if (!rule_)
            throw std::invalid_argument("Optimizer: rule must be the name of a rule of fastopt, got " + rule);
        std::size_t count = 0;
        while (rule_->hyper[count])
            count++;
        if (hyper.size() != count)
            throw std::invalid_argument("Optimizer: " + rule + " must get " + std::to_string(count) +
                                        " hyperparameters, got " + std::to_string(hyper.size()));
        for (const auto &[name, value] : hyper)
            set(name, value);
    }

    // The tensors point into this object.
    Optimizer(const Optimizer &) = delete;
    Optimizer &operator=(const Optimizer &) = delete;

    void set(const std::string &name, double value)
    {
        for (int i = 0; rule_->hyper[i]; i++)
            if (name == rule_->hyper[i]) {
                if (!fastopt_in_range(fastopt_rule_hyper(rule_, i), value))
                    throw std::out_of_range("Optimizer: " + name + " must be " + fastopt_rule_hyper(rule_, i)->range);
                hyper_[i] = value;
                return;
            }
        throw std::invalid_argument("Optimizer: hyperparameters must be those of the rule, got " + name);
    }

    // Both vectors must outlive the optimizer and keep their sizes.
    void add(std::vector<float> &params, std::vector<float> &grads, double decay = 0)
    {
        if (params.size() != grads.size())
            throw std::invalid_argument("Optimizer: parameters and gradients must have the same size");
        fastopt_tensor t{};
        t.rule = rule_;
        t.dtype = FASTOPT_FLOAT32;
        t.n = static_cast<std::ptrdiff_t>(params.size());
        t.p = params.data();
        t.g = grads.data();
        for (int s = 0; rule_->state[s]; s++)
            t.state[s] = state_.emplace_back(params.size()).data();
        t.carry = carry_.emplace_back(FASTOPT_MAX_CARRY).data();
        t.hyper = hyper_;
        fastopt_options options{};
        options.decoupled_decay = decay;
        t.options = &options_.emplace_back(options);
        t.step = 1;
        tensors_.push_back(t);
    }

    // Makes a step, sets the gradients to zero and returns their norm before clipping.
    double step(double clip_norm, int threads)
    {
        fastopt_call call{};
        call.num_threads = threads;
        call.clip_norm = clip_norm;
        call.zero_grads = 1;
        const fastopt_status status =
            fastopt_step_with(tensors_.data(), static_cast<std::ptrdiff_t>(tensors_.size()), &call);
        if (status != FASTOPT_OK)
            throw std::runtime_error(std::string("Optimizer: ") + fastopt_status_text(status));
        for (fastopt_tensor &t : tensors_)
            t.step++;
        return call.grad_norm;
    }

  private:
    const fastopt_rule *rule_;
    double hyper_[FASTOPT_MAX_HYPER] = {};
    std::deque<std::vector<float>> state_; // a deque never moves its elements
    std::deque<std::vector<double>> carry_;
    std::deque<fastopt_options> options_;
    std::vector<fastopt_tensor> tensors_;
};
