"""The text bank against literal recurrences, and its limits."""

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from unialign.stages.models.text_bank import TextBank

K, L, C, D = 3, 4, 6, 5


def _bank(form: str = "agent", momentum: float = 0.9, seed: int = 0) -> TextBank:
    torch.manual_seed(seed)
    return TextBank(initial=torch.randn(K, L, C) * 9, width=D, form=form, momentum=momentum)


def _step(bank: TextBank, optimizer: torch.optim.Optimizer, video: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    logits = bank.consistency(video, torch.eye(L, D), torch.tensor(0.1))
    functional.cross_entropy(logits["bank_video_logits"], labels).backward()
    optimizer.step()
    bank.update(video, labels)


def _train(bank: TextBank, steps: int = 3) -> list[Tensor]:
    """The agent bank after each step."""
    assert bank.agent is not None
    optimizer = torch.optim.SGD([bank.agent], lr=0.5)
    agents = []
    for step in range(steps):
        video = torch.randn(6, D, generator=torch.Generator().manual_seed(step))
        _step(bank, optimizer, video, torch.arange(6) % L)
        agents.append(bank.agent.detach().clone())
    return agents


def test_both_banks_start_at_the_unit_texts() -> None:
    bank = _bank()
    assert bank.agent is not None
    assert torch.equal(bank.main, bank.agent)
    assert torch.allclose(bank.main.norm(dim=-1), torch.ones(K, L))


def test_main_bank_follows_the_literal_recurrence() -> None:
    bank = _bank(momentum=0.9)
    expected = bank.main.clone().tolist()
    for agent in _train(bank):
        for prompt in range(K):
            for label in range(L):
                for channel in range(C):
                    old = expected[prompt][label][channel]
                    expected[prompt][label][channel] = 0.9 * old + 0.1 * float(agent[prompt, label, channel])
    assert torch.allclose(bank.main, torch.tensor(expected), atol=1e-6)
    assert bank.agent is not None
    assert not torch.allclose(bank.main, bank.agent, atol=1e-3)


def test_momentum_one_keeps_the_texts() -> None:
    bank = _bank(momentum=1.0)
    start = bank.main.clone()
    agents = _train(bank)
    assert torch.equal(bank.main, start)
    assert not torch.allclose(agents[-1], start)


def test_momentum_zero_is_direct_fine_tuning() -> None:
    bank = _bank(momentum=0.0)
    assert torch.equal(_train(bank)[-1], bank.main)


@pytest.mark.parametrize("form", ["agent", "feature"])
def test_no_gradient_reaches_the_main_bank(form: str) -> None:
    bank = _bank(form)
    texts = bank()
    assert texts.shape == (K, L, D)
    assert torch.allclose(texts.norm(dim=-1), torch.ones(K, L))
    assert "main" not in dict(bank.named_parameters())
    assert not bank.main.requires_grad
    if form == "feature":
        assert not texts.requires_grad
        assert list(bank.parameters()) == []
        return
    texts[0, 0, 0].backward()
    assert bank.agent is not None
    assert bank.projection is not None
    assert bank.agent.grad is None
    assert bank.projection.weight.grad is not None


def test_refinement_moves_the_agent_alone() -> None:
    """Equation 12: the gradient of L_sema is that of S^a; the map that both banks share gets none of it."""
    bank = _bank("agent")
    logits = bank.consistency(torch.randn(2, D), torch.randn(L, D), torch.tensor(0.1))
    sum(value.log_softmax(dim=1)[:, 0].sum() for value in logits.values()).backward()  # type: ignore[union-attr]
    assert bank.agent is not None
    assert bank.projection is not None
    assert bank.agent.grad is not None
    assert bool(bank.agent.grad.any())
    assert bank.projection.weight.grad is None


def test_consistency_equals_literal_loops() -> None:
    bank = _bank()
    assert bank.agent is not None
    assert bank.projection is not None
    video, prototypes = torch.randn(2, D), torch.randn(L, D)
    with torch.no_grad():
        logits = bank.consistency(video, prototypes, torch.tensor(0.2))
    agent, weight = bank.agent.detach().double(), bank.projection.weight.detach().double()
    for name, queries in (("bank_video_logits", video), ("bank_prototype_logits", prototypes)):
        for index, query in enumerate(queries.double()):
            for label in range(L):
                cosines = []
                for prompt in range(K):
                    text = weight @ agent[prompt, label]
                    cosines.append(float((query / query.norm()) @ (text / text.norm())))
                assert float(logits[name][index, label]) == pytest.approx(max(cosines) / 0.2, abs=1e-5)


def test_feature_form_follows_the_literal_recurrence() -> None:
    bank = _bank("feature", momentum=0.7)
    expected = bank.main.clone().double()
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        features = functional.normalize(torch.randn(5, D, generator=generator), dim=-1)
        labels = torch.tensor([0, 2, 2, 0, 2])  # classes 1 and 3 are absent
        bank.update(features, labels)
        for label in (0, 2):
            members = [features[i].double() for i in range(5) if int(labels[i]) == label]
            mean = sum(members[1:], members[0]) / len(members)
            for prompt in range(K):
                mixed = 0.7 * expected[prompt, label] + 0.3 * mean
                expected[prompt, label] = mixed / mixed.norm()
    assert torch.allclose(bank.main.double(), expected, atol=1e-6)


def test_feature_form_limits() -> None:
    features = functional.normalize(torch.randn(L, D), dim=-1)
    frozen, direct = _bank("feature", momentum=1.0), _bank("feature", momentum=0.0)
    start = frozen.main.clone()
    for bank in (frozen, direct):
        bank.update(features, torch.arange(L))
    assert torch.allclose(frozen.main, start, atol=1e-6)
    assert torch.allclose(direct.main, features.expand(K, L, D), atol=1e-6)
    before = direct.main.clone()
    direct.update(-features[:1], torch.tensor([2]))
    assert torch.equal(direct.main[:, [0, 1, 3]], before[:, [0, 1, 3]])  # classes that the batch lacks stay
    assert torch.allclose(direct.main[:, 2], -features[:1].expand(K, D), atol=1e-6)


def test_the_projection_keeps_cosines_when_the_width_suffices() -> None:
    texts = torch.randn(K, L, C)
    for form in ("agent", "feature"):
        bank = TextBank(initial=texts, width=8, form=form)
        rows = functional.normalize(texts, dim=-1).flatten(0, 1)
        projected = bank().detach().flatten(0, 1)
        assert torch.allclose(projected @ projected.T, rows @ rows.T, atol=1e-5)


def test_bad_banks_are_rejected() -> None:
    good = torch.randn(K, L, C)
    with pytest.raises(ValueError, match="form 'x' is unknown"):
        TextBank(initial=good, width=D, form="x")
    with pytest.raises(ValueError, match="not between 0 and 1"):
        TextBank(initial=good, width=D, momentum=1.1)
    for value in (0.0, float("nan")):
        bad = good.clone()
        bad[1, 2] = value
        with pytest.raises(ValueError, match="finite embedding in every row"):
            TextBank(initial=bad, width=D)


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    bank = _bank("feature", momentum=0.7)
    features = functional.normalize(torch.randn(6, D, generator=torch.Generator().manual_seed(5)), dim=-1)
    labels = torch.tensor([0, 1, 1, 0, 0, 2])
    bank.update(features[rank * 3 : rank * 3 + 3], labels[rank * 3 : rank * 3 + 3])
    torch.save(bank.main, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_feature_form_is_the_same_in_two_processes_as_in_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_process, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    alone = _bank("feature", momentum=0.7)
    features = functional.normalize(torch.randn(6, D, generator=torch.Generator().manual_seed(5)), dim=-1)
    alone.update(features, torch.tensor([0, 1, 1, 0, 0, 2]))
    for rank in range(2):
        assert torch.allclose(torch.load(tmp_path / f"{rank}.pt", weights_only=True), alone.main, atol=1e-6)
