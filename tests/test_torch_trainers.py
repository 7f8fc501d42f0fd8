"""fastopt.torch within the programs that people train with: the same run as that of torch.optim, or of a plain loop."""

import shutil

import pytest

import fastopt

torch = pytest.importorskip("torch", reason="fastopt.torch is for torch")

OPTIONS = {"lr": 1e-2, "weight_decay": 0.1}
BATCHES = 6


class Net(torch.nn.Module):
    """A model as transformers trains it: it returns its loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

    def forward(self, x, labels):
        return {"loss": torch.nn.functional.mse_loss(self.layers(x)[:, 0], labels)}


def examples():
    generator = torch.Generator().manual_seed(1)
    xs = torch.randn(BATCHES, 4, generator=generator)
    return [{"x": x, "labels": x.sum()} for x in xs]


def batches():
    return torch.utils.data.DataLoader(examples(), batch_size=1)


def by_loop(make, model=None):
    """Train by a plain loop."""
    model = Net() if model is None else model
    opt = make(model.parameters(), **OPTIONS)
    scheduler = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.0, total_iters=BATCHES)
    for batch in batches():
        opt.zero_grad()
        model(**batch)["loss"].backward()
        opt.step()
        scheduler.step()
    return model


def assert_same(model, expected):
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_plain_loop():
    ours, theirs = by_loop(fastopt.torch.AdamW), by_loop(torch.optim.AdamW)
    torch.testing.assert_close(dict(ours.named_parameters()), dict(theirs.named_parameters()))
    assert not torch.equal(ours.layers[0].weight, Net().layers[0].weight)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler of C++")
def test_a_compiled_model():
    model = Net()
    by_loop(fastopt.torch.AdamW, torch.compile(model))
    expected = by_loop(fastopt.torch.AdamW)
    torch.testing.assert_close(dict(model.named_parameters()), dict(expected.named_parameters()))


def test_trainer_of_transformers(tmp_path):
    """Also from a checkpoint in the middle, which has the state of the optimizer."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="the trainer of transformers needs accelerate")

    def trainer(cls):
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=1,
            num_train_epochs=1,
            learning_rate=OPTIONS["lr"],
            lr_scheduler_type="linear",
            max_grad_norm=0.0,
            save_steps=BATCHES // 2,
            train_sampling_strategy="sequential",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        return transformers.Trainer(Net(), arguments, train_dataset=examples(), optimizer_cls_and_kwargs=(cls, OPTIONS))

    theirs = trainer(torch.optim.AdamW)
    theirs.train()
    first = trainer(fastopt.torch.AdamW)
    first.train()
    torch.testing.assert_close(dict(first.model.named_parameters()), dict(theirs.model.named_parameters()))
    again = trainer(fastopt.torch.AdamW)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{BATCHES // 2}"))
    assert_same(first.model, again.model)


def test_accelerate(tmp_path):
    """Gradients of two batches add up, their norm is clipped, and the run goes on from a saved state."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    ends = []
    for resumes in (False, True):
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = Net()
        opt = fastopt.torch.AdamW(model.parameters(), **OPTIONS)
        model, opt, loader = accelerator.prepare(model, opt, batches())
        if resumes:
            accelerator.load_state(str(tmp_path / "state"))
        for i, batch in enumerate(loader):
            if i == BATCHES // 3 and not resumes:
                accelerator.save_state(str(tmp_path / "state"))
            if resumes and i < BATCHES // 3:
                continue
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch)["loss"])
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.1)
                opt.step()
                opt.zero_grad()
        ends.append(model)
    assert_same(*ends)


def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def training_step(self, batch, _):
            return self.net(**batch)["loss"]

        def configure_optimizers(self):
            opt = fastopt.torch.AdamW(self.parameters(), **OPTIONS)
            scheduler = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.0, total_iters=BATCHES)
            return {"optimizer": opt, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def trainer(epochs):
        return lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    module, run = Module(), trainer(1)
    run.fit(module, batches())
    assert_same(module.net, by_loop(fastopt.torch.AdamW))
    run.save_checkpoint(tmp_path / "one.ckpt")
    ends = []
    for _ in range(2):
        ends.append(Module())
        trainer(2).fit(ends[-1], batches(), ckpt_path=tmp_path / "one.ckpt")
    assert_same(*ends)
    whole = Module()
    trainer(2).fit(whole, batches())
    assert_same(ends[0], whole)
