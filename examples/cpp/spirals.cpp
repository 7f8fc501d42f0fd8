// A network with one hidden layer, trained by AdamW, separates two spirals.
#include "optimizer.hpp"

#include <cmath>
#include <cstdio>
#include <random>

namespace
{
constexpr int points = 200, hidden = 64, steps = 600;

struct Network {
    std::vector<float> w1 = std::vector<float>(2 * hidden), b1 = std::vector<float>(hidden), w2 = b1, b2 = {0};
};

// The loss of a point of class 0 or 1, and its gradients, which are added to `grads`.
float forward_backward(const Network &net, Network &grads, float x, float y, float target)
{
    std::vector<float> h(hidden);
    float z = net.b2[0];
    for (int j = 0; j < hidden; j++) {
        h[j] = std::tanh(x * net.w1[j] + y * net.w1[hidden + j] + net.b1[j]);
        z += h[j] * net.w2[j];
    }
    const float p = 1 / (1 + std::exp(-z)), d_z = (p - target) / points;
    grads.b2[0] += d_z;
    for (int j = 0; j < hidden; j++) {
        const float d_h = d_z * net.w2[j] * (1 - h[j] * h[j]);
        grads.w2[j] += d_z * h[j];
        grads.w1[j] += d_h * x;
        grads.w1[hidden + j] += d_h * y;
        grads.b1[j] += d_h;
    }
    return -std::log(target > 0 ? p : 1 - p) / points;
}
} // namespace

int main()
{
    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    Network net, grads;
    for (float &w : net.w1)
        w = 2 * normal(random);
    for (float &b : net.b1)
        b = normal(random);

    Optimizer optimizer("adam", {{"lr", 0.05}, {"beta1", 0.9}, {"beta2", 0.99}, {"eps", 1e-8}});
    optimizer.add(net.w1, grads.w1, 1e-3);
    optimizer.add(net.b1, grads.b1);
    optimizer.add(net.w2, grads.w2, 1e-3);
    optimizer.add(net.b2, grads.b2);

    float first = 0, loss = 0;
    for (int step = 1; step <= steps; step++) {
        loss = 0;
        for (int i = 0; i < points; i++) {
            const float t = static_cast<float>(i / 2 + 10) / 30, sign = i % 2 ? 1.0f : -1.0f;
            loss += forward_backward(net, grads, sign * t * std::cos(3 * t), sign * t * std::sin(3 * t), i % 2);
        }
        first = step == 1 ? loss : first;
        optimizer.set("lr", 0.05 * (1 - 0.9 * step / steps));
        const double norm = optimizer.step(1, 2);
        if (step % 100 == 0)
            std::printf("step %3d  loss %.4f  norm of the gradient %.3f\n", step, loss, norm);
    }
    return loss < first / 10 ? 0 : 1;
}
