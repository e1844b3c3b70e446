"""`benchmarks/fidelity.py` on supernets that were never trained: what it prints and leaves, and what it refuses."""

import pytest

FEW = ("--within", "3", "--spread", "0", "--images", "64", "--epochs", "1")


@pytest.fixture
def script(call_script, untrained):
    """Runs the script on two supernets; returns its status, and what it printed."""
    for seed, name in enumerate(("one", "two")):
        untrained(name, seed)

    def run(*options):
        budget = () if "--budget" in options else ("--budget", "1MFLOPs")
        ended = call_script("fidelity", "one", "two", "--data", "digits", *FEW, "--out", "out", *budget, *options)
        return ended.status, ended.out, ended.err

    return run


@pytest.mark.runs_benchmark("fidelity")
def test_supernets_are_compared_on_the_same_networks_in_a_run_that_continues(script, tmp_path):
    status, out, _ = script("--device", "cpu")
    assert status == 0
    assert "3 networks within 950 kFLOPs to 1.05 MFLOPs, trained for 1 epochs" in out
    assert "None" not in out
    assert "uniform, labels, 0 epochs (two)" in out
    assert (tmp_path / "one/fidelity.yaml").is_file()
    before = (tmp_path / "out/trainings.journal").read_bytes()
    assert before.count(b"\n") == 1 + 3 + 3
    assert script("--device", "cpu")[:2] == (0, out)
    assert (tmp_path / "out/trainings.journal").read_bytes() == before
    # The folder is a run's: of this configuration, and of one process at a time.
    status, _, err = script("--device", "cpu", "--seed", "1")
    assert (status, "seed: 0 there, 1 here" in err) == (2, True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--data", "nowhere"), "data 'nowhere'"),
        (("--second-seeds", "4"), "--second-seeds 4: there are --within 3"),
        (("--within", "1"), "at least 2"),
        (("--budget", "5ms@cpu"), "latency"),
        (("--budget", "1kFLOPs"), "231.4 kFLOPs"),
        (("--recipe", "ours"), "recipe 'ours'"),
        (("--device", "warp"), "--device warp"),
        (("--workers", "many"), "--workers 'many'"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(script, tmp_path, options, expected):
    status, _, err = script(*options)
    assert status == 2
    assert expected in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
