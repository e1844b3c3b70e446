"""Budgets as engineers write them, and limits that are inclusive."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psvit.arch.architecture import Architecture
from psvit.arch.costs import Cost, cost
from psvit.errors import InputError
from psvit.io.shipped import shipped
from psvit.space.budget import Budget, LatencyLimit, Limit, as_usual, format_cost
from psvit.space.search_space import SearchSpace


@pytest.mark.parametrize(
    ("text", "metric", "lower", "upper"),
    [
        ("2GFLOPs", "macs", None, 2_000_000_000),
        ("2GMACs", "macs", None, 2_000_000_000),
        ("2gflops", "macs", None, 2_000_000_000),
        ("2GfLoPS", "macs", None, 2_000_000_000),
        ("  2GFLOPs\n", "macs", None, 2_000_000_000),
        ("2 GFLOPs", "macs", None, 2_000_000_000),
        ("2GFLOP", "macs", None, 2_000_000_000),
        ("22 Mparam", "num_params", None, 22_000_000),
        ("500MMACs", "macs", None, 500_000_000),
        ("12kFLOPs", "macs", None, 12_000),
        ("0.5TFLOPs", "macs", None, 500_000_000_000),
        ("12345FLOPs", "macs", None, 12_345),
        ("22Mparams", "num_params", None, 22_000_000),
        ("22MPARAMS", "num_params", None, 22_000_000),
        ("5717416params", "num_params", None, 5_717_416),
        ("1.2..1.4GFLOPs", "macs", 1_200_000_000, 1_400_000_000),
        ("0..2GFLOPs", "macs", 0, 2_000_000_000),
        ("3..3Mparams", "num_params", 3_000_000, 3_000_000),
        ("300MB", "activation_bytes", None, 300_000_000),
        ("300mb", "activation_bytes", None, 300_000_000),
        ("12345B", "activation_bytes", None, 12_345),
        ("1.5kB", "activation_bytes", None, 1_500),
        ("1.5GB", "activation_bytes", None, 1_500_000_000),
        ("1.5KiB", "activation_bytes", None, 1_536),
        ("1MiB", "activation_bytes", None, 2**20),
        ("0.5GiB", "activation_bytes", None, 2**29),
        # In binary floating point 1.005 * 1000 is less than 1005.
        ("1.005..1.005kparams", "num_params", 1005, 1005),
        # Limits are whole numbers, rounded to the inside of what was asked.
        ("1.2345..5.6789kFLOPs", "macs", 1235, 5678),
    ],
)
def test_parse(text, metric, lower, upper):
    assert Budget.parse(text) == Budget(limits=(Limit(metric=metric, lower=lower, upper=upper),))


@pytest.mark.parametrize(
    ("text", "usual"),
    [
        ("2Gflops", "2GFLOPs"),
        (" 2 gflop", "2GFLOPs"),
        ("1.2..1.4 GMACS", "1.2..1.4GMACs"),
        ("22MPARAM", "22Mparams"),
        ("12 KFLOPs", "12kFLOPs"),
        ("300mb", "300MB"),
        ("1 MiB", "1MiB"),
        ("60%ofdeit-small", "60%ofdeit-small"),
        ("60 % of deit-small", "60%ofdeit-small"),
        ("60% OF deit-small", "60%ofdeit-small"),
        ("30 .. 60 %", "30..60%"),
        ("60%of my networks/one.yaml", "60%ofmy networks/one.yaml"),
        ("22 M params", "22Mparams"),
        ("1.2 .. 1.4 GFLOPs", "1.2..1.4GFLOPs"),
        ("5ms@cpu:batch=8", "5ms@cpu:batch=8"),
        ("5 ms @ cpu: batch=8, threads=1", "5ms@cpu:batch=8,threads=1"),
        ("nonsense", "nonsense"),
    ],
)
def test_equal_limits_are_written_alike(text, usual):
    assert as_usual(text) == as_usual(usual) == usual


@pytest.mark.parametrize("text", ["22 M params", "1.2 .. 1.4 GFLOPs", "60 % of deit-small", "4 .. 5 ms @ cpu: batch=8"])
def test_spaces_make_no_difference(text):
    assert Budget.parse(text) == Budget.parse("".join(text.split())) == Budget.parse(as_usual(text))


def test_spaces_do_not_join_two_numbers():
    with pytest.raises(InputError, match="not understood"):
        Budget.parse("2 2 GFLOPs")


WHOLE = st.integers(1, 10**15)
RANGES = st.tuples(st.none() | st.integers(0, 10**15), WHOLE).map(lambda ends: {"lower": ends[0], "upper": ends[1]})
TIMES = st.floats(1e-6, 1e6).map(lambda upper: {"upper_ms": upper})


@given(
    macs=RANGES.filter(lambda ends: (ends["lower"] or 0) <= ends["upper"]),
    num_params=st.none() | WHOLE,
    latency=st.none() | TIMES,
)
def test_a_budget_as_texts_is_read_as_itself(macs, num_params, latency):
    limits = [Limit(metric="macs", **macs)]
    limits += [Limit(metric="num_params", upper=num_params)] if num_params else []
    latencies = [LatencyLimit(device="cpu", batch_size=8, **latency)] if latency else []
    budget = Budget(limits=tuple(limits), latencies=tuple(latencies))
    assert Budget.parse(*budget.texts) == Budget.of(budget.texts) == Budget.of(budget) == budget
    assert [as_usual(text) for text in budget.texts] == [*budget.texts]


def test_a_budget_as_text_is_short():
    assert Budget.parse("1.5..2GFLOPs", "22Mparams", "5MB").texts == ("1500..2000MFLOPs", "22Mparams", "5MB")


def test_limits_that_are_no_texts_are_named():
    with pytest.raises(InputError, match=r"budget: must be a text .*; received \['2GFLOPs', '5Mparams'\]"):
        Budget.parse(["2GFLOPs", "5Mparams"])


def test_a_time_is_asked_on_what():
    with pytest.raises(InputError, match=r"on what\? give 5ms@cpu or 5ms@cuda"):
        Budget.parse("5 ms")


def test_a_bare_number_is_asked_of_what():
    with pytest.raises(InputError, match="give 2GFLOPs, 2Mparams or 2%"):
        Budget.parse("2")
    with pytest.raises(InputError, match="give 3000000FLOPs or 3000000params"):
        Budget.parse("3000000")


@pytest.mark.parametrize("text", ["3MFLOPs,1MB", "1,000,000FLOPs", "2,5GFLOPs"])
def test_a_comma_is_named(text):
    with pytest.raises(InputError, match="with a point, and give each limit on its own"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["2G", "2 m", "1..2k"])
def test_a_number_of_nothing_is_asked_of_what(text):
    with pytest.raises(InputError, match="of what. give {0}FLOPs or {0}params".format(text.replace(" ", ""))):
        Budget.parse(text)


def test_several_limits_keep_their_order():
    budget = Budget.parse("22Mparams", "2GFLOPs")
    assert [limit.metric for limit in budget.limits] == ["num_params", "macs"]
    assert budget.limit("macs").upper == 2_000_000_000
    assert budget.limit("num_params").upper == 22_000_000
    assert Budget.parse("2GFLOPs").limit("num_params") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GFLOPs",
        "2GiFLOPs",
        "2Gb/s",
        "2GBytes",
        "-1GFLOPs",
        "+1GFLOPs",
        "1e9FLOPs",
        "2.GFLOPs",
        ".5GFLOPs",
        "1..GFLOPs",
        "..2GFLOPs",
        "1...2GFLOPs",
        "1GFLOPs..2GFLOPs",
        "1..2..3GFLOPs",
        "2GFLOPs/s",
        "2PFLOPs",
        "nanGFLOPs",
        "infGFLOPs",
        "2GFLOPs 22Mparams",
        "2" * 400 + "FLOPs",
        "60%of",
        "60%deit-small",
        "60%params",
        "60%..70%",
        # Ignoring case, Unicode's long s counts as an s.
        "2GFLOP\N{LATIN SMALL LETTER LONG S}",
    ],
)
def test_nonsense_is_answered_with_the_permitted_forms(text):
    with pytest.raises(InputError) as error:
        Budget.parse(text)
    assert repr(text) in str(error.value)
    for example in ("2GFLOPs", "2GMACs", "22Mparams", "1.2..1.4GFLOPs"):
        assert example in str(error.value)


@pytest.mark.parametrize("text", ["0GFLOPs", "0params", "0.0..0.0GFLOPs", "0.9FLOPs"])
def test_a_limit_of_nothing_is_refused(text):
    with pytest.raises(InputError, match=f"^budget '{text}': must be positive$"):
        Budget.parse(text)


# --- shares of an architecture's MACs


@pytest.mark.parametrize(
    ("text", "lower", "upper"),
    [
        ("60%", None, "0.6"),
        ("100%", None, "1"),
        ("12.5%", None, "0.125"),
        ("50..60%", "0.5", "0.6"),
        ("150%", None, "1.5"),
    ],
)
def test_a_share_is_of_the_largest_macs(text, lower, upper):
    space = SearchSpace.load("psvit-2d-digits")
    whole = Decimal(space.reach("macs")[1])
    (limit,) = Budget.parse(text, space=space).limits
    assert limit.metric == "macs"
    assert limit.lower == (None if lower is None else math.ceil(Decimal(lower) * whole))
    assert limit.upper == math.floor(Decimal(upper) * whole)


def test_the_whole_share_of_the_largest_leaves_everything():
    space = SearchSpace.load("psvit-2d-digits")
    assert space.count(Budget.parse("100%", space=space)) == space.size
    assert space.count(Budget.parse("100..100%", space=space)) >= 1


@pytest.mark.parametrize("name", ["deit-small", "deit_small", "DeiT_Small"])
def test_a_share_of_a_shipped_architecture_needs_no_space(name):
    macs = 4_598_882_304
    assert Budget.parse(f"60%of{name}") == Budget.parse(f"{macs * 60 // 100}FLOPs")
    assert Budget.parse(f"100..100%of{name}") == Budget.parse(f"{macs}..{macs}FLOPs")


def test_a_share_of_an_architecture_in_a_file(tmp_path):
    arch = SearchSpace.load("psvit-2d-digits")[1000]
    (tmp_path / "MY_best@home").mkdir()
    path = tmp_path / "MY_best@home" / "Best_one.yaml"
    arch.save(path)
    assert Budget.parse(f"100%of{path}") == Budget.parse(f"{cost(arch).macs}FLOPs")


def test_a_share_of_the_largest_needs_a_space():
    with pytest.raises(InputError, match=r"^budget '60%': .*--init .*--space .*60%ofdeit-small"):
        Budget.parse("60%")


def test_a_share_of_an_unknown_architecture_is_answered_with_the_shipped_ones():
    with pytest.raises(InputError, match="arch 'resnet_50': unknown") as error:
        Budget.parse("60%ofresnet_50")
    assert all(name in str(error.value) for name in shipped("arch"))
    with pytest.raises(InputError, match=r"missing\.yaml: cannot be read"):
        Budget.parse("60%ofmissing.yaml")


def test_every_shipped_architecture_can_be_named():
    for name in shipped("arch"):
        assert Budget.parse(f"100%of{name}").limits[0].upper == cost(Architecture.load(name)).macs


def test_shares_limit_macs_once():
    with pytest.raises(InputError, match="macs may be limited once, received 2GFLOPs, 60%ofdeit-tiny"):
        Budget.parse("2GFLOPs", "60%ofdeit-tiny")


# --- latency


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5ms@cpu", LatencyLimit(device="cpu", upper_ms=5)),
        (" 5MS@CPU ", LatencyLimit(device="cpu", upper_ms=5)),
        ("4..5ms@cpu", LatencyLimit(device="cpu", lower_ms=4, upper_ms=5)),
        ("0..5.5ms@cpu", LatencyLimit(device="cpu", lower_ms=0, upper_ms=5.5)),
        ("700us@cuda", LatencyLimit(device="cuda", upper_ms=0.7)),
        ("1.5s@mps", LatencyLimit(device="mps", upper_ms=1500)),
        ("5ms@cuda:1", LatencyLimit(device="cuda:1", upper_ms=5)),
        ("5ms@cuda:batch=32", LatencyLimit(device="cuda", batch_size=32, upper_ms=5)),
        ("5ms@cuda:1:batch=32", LatencyLimit(device="cuda:1", batch_size=32, upper_ms=5)),
        (
            "5ms@cpu:batch=8,threads=1,runtime=onnxruntime",
            LatencyLimit(device="cpu", batch_size=8, threads=1, runtime="onnxruntime", upper_ms=5),
        ),
        (
            "5ms@cuda:precision=bfloat16,runtime=compile",
            LatencyLimit(device="cuda", runtime="compile", precision="bfloat16", upper_ms=5),
        ),
    ],
)
def test_parse_latency(text, expected):
    assert LatencyLimit.parse(text) == expected
    assert Budget.parse(text) == Budget(latencies=(expected,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5ms@toaster", "device: must be cpu, cuda, mps or xpu, or one of several such as cuda:1, received 'toaster'"),
        ("5ms@", "not understood"),
        ("5@cpu", "not understood"),
        ("5min@cpu", "not understood"),
        ("-5ms@cpu", "not understood"),
        ("4ms..5ms@cpu", "not understood"),
        ("5ms@cpu:", "'' is no setting"),
        ("5ms@cpu:8", "received 'cpu:8'"),
        ("5ms@cpu:batch", "'batch' is no setting"),
        ("5ms@cpu:images=8", "'images=8' is no setting"),
        ("5ms@cpu:batch=8,batch=9", "'batch=9' is no setting, or given twice"),
        ("5ms@cpu:upper_ms=8", "'upper_ms=8' is no setting"),
        ("5ms@cpu:batch=0", "batch_size: Input should be greater than 0, received 0"),
        ("5ms@cpu:batch=many", 'batch_size: Input should be a valid integer, received "many"'),
        ("5ms@cpu:threads=" + "9" * 5000, "threads: Input should be a valid integer"),
        ("5ms@cpu:runtime=tvm", "runtime: Input should be 'eager', 'compile' or 'onnxruntime', received \"tvm\""),
        ("5ms@cpu:precision=int8", "precision: Input should be 'float32', 'bfloat16' or 'float16'"),
        ("0ms@cpu", "must be positive"),
        ("5..4ms@cpu", "the lower end must not exceed the upper"),
    ],
)
def test_a_latency_that_is_none_is_named(text, expected):
    with pytest.raises(InputError) as error:
        Budget.parse(text)
    assert str(error.value).startswith(f"budget {text!r}: ")
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("5ms@cpu", "at most 5 ms@cpu"),
        ("700us@cuda:0", "at most 0.7 ms@cuda:0"),
        ("4..5ms@cuda:threads=2,batch=32", "4 to 5 ms@cuda:batch=32,threads=2"),
        ("5ms@cpu:batch=1,runtime=eager", "at most 5 ms@cpu"),
    ],
)
def test_latencies_are_shown_with_what_is_not_a_default(text, shown):
    assert str(Budget.parse(text)) == shown


def test_every_setting_may_have_a_latency_of_its_own():
    budget = Budget.parse("5ms@cpu", "2GFLOPs", "20ms@cpu:batch=8", "1ms@cuda")
    assert [limit.setting for limit in budget.latencies] == ["cpu", "cpu:batch=8", "cuda"]
    assert [limit.metric for limit in budget.limits] == ["macs"]
    assert str(budget) == "at most 2 GFLOPs and at most 5 ms@cpu and at most 20 ms@cpu:batch=8 and at most 1 ms@cuda"
    # The same setting is the same however it is written.
    with pytest.raises(
        InputError, match=r"^budget: latency_ms@cpu may be limited once, received 5ms@cpu, 4ms@cpu:batch=1;"
    ):
        Budget.parse("5ms@cpu", "4ms@cpu:batch=1")


def test_a_latency_must_ascend():
    assert LatencyLimit(device="cpu", lower_ms=5.0, upper_ms=5.0)
    with pytest.raises(ValueError, match="lower_ms must not exceed upper_ms"):
        LatencyLimit(device="cpu", lower_ms=6.0, upper_ms=5.0)


def test_costs_alone_do_not_answer_for_latency():
    budget = Budget.parse("5ms@cpu", "2kFLOPs")
    assert budget.satisfied_by(Cost(macs=2000, num_params=1, activation_bytes=10**6))
    assert not budget.satisfied_by(Cost(macs=2001, num_params=1, activation_bytes=10**6))
    space = SearchSpace.load("psvit-2d-digits")
    assert space.count(Budget.parse("5ms@cpu", "1MFLOPs")) == space.count(Budget.parse("1MFLOPs"))
    assert Budget.parse("5ms@cpu", "2GFLOPs").spent(0.9) == Budget.parse("5ms@cpu", "1.8..2GFLOPs")


def test_what_the_limits_came_to():
    budget = Budget.parse("60%ofdeit_small", "1..22Mparams", "4..5ms@cpu", "1ms@cuda:batch=8")
    assert budget.resolved == {
        "macs": [None, 2_759_329_382],
        "num_params": [1_000_000, 22_000_000],
        "latency_ms@cpu": [4.0, 5.0],
        "latency_ms@cuda:batch=8": [None, 1.0],
    }


# --- ranges and limits


# Between 1.1 and 1.9 there is no whole number of parameters.
@pytest.mark.parametrize("text", ["2..1GFLOPs", "1.0001..1Mparams", "1.1..1.9params"])
def test_a_range_must_ascend(text):
    with pytest.raises(InputError, match="the lower end must not exceed the upper"):
        Budget.parse(text)


@pytest.mark.parametrize("texts", [("2GFLOPs", "3GMACs"), ("2GFLOPs", "22Mparams", "1..2GFLOPs")])
def test_one_cost_is_limited_once(texts):
    with pytest.raises(InputError, match="macs may be limited once") as error:
        Budget.parse(*texts)
    assert f"{texts[0]}, {texts[-1]}" in str(error.value)
    limits = tuple(Limit.parse(text) for text in texts)
    with pytest.raises(ValueError, match="each may be limited once, received limits on macs"):
        Budget(limits=limits)


@pytest.mark.parametrize(
    ("macs", "within"),
    [(0, False), (999, False), (1000, True), (1001, True), (1999, True), (2000, True), (2001, False)],
)
def test_limits_are_inclusive(macs, within):
    budget = Budget.parse("1..2kFLOPs")
    cost = Cost(macs=macs, num_params=10**9, activation_bytes=10**6)
    assert budget.satisfied_by(cost) is within
    assert len(budget.violations(cost)) == (not within)


@given(st.integers(1, 10**15), st.integers(1, 10**15), st.integers(0, 10**15), st.integers(0, 10**15))
def test_satisfied_means_that_every_limit_holds(macs_limit, params_limit, macs, num_params):
    budget = Budget.parse(f"{macs_limit}FLOPs", f"{params_limit}params")
    cost = Cost(macs=macs, num_params=num_params, activation_bytes=10**6)
    assert budget.satisfied_by(cost) == (macs <= macs_limit and num_params <= params_limit)
    assert len(budget.violations(cost)) == (macs > macs_limit) + (num_params > params_limit)


def test_violations_say_what_was_found_and_what_is_permitted():
    budget = Budget.parse("1..2GFLOPs", "22Mparams")
    assert budget.violations(Cost(macs=2_500_000_000, num_params=5_717_416, activation_bytes=10**6)) == [
        "2.5 GFLOPs is not 1 GFLOPs to 2 GFLOPs"
    ]
    assert budget.violations(Cost(macs=500_000_000, num_params=23_000_000, activation_bytes=10**6)) == [
        "500 MFLOPs is not 1 GFLOPs to 2 GFLOPs",
        "23 Mparams is not at most 22 Mparams",
    ]


@pytest.mark.parametrize("text", ["200..300MB", "0..300MB", "1..1GiB"])
def test_activation_memory_takes_an_upper_limit_only(text):
    with pytest.raises(
        InputError, match=f"^budget '{text}': activation memory takes an upper limit only, such as 300MB$"
    ):
        Budget.parse(text)
    with pytest.raises(ValueError, match="upper limit only"):
        Limit(metric="activation_bytes", lower=0, upper=1)


@pytest.mark.parametrize(("activation_bytes", "within"), [(2**20 - 1, True), (2**20, True), (2**20 + 1, False)])
def test_a_limit_on_memory_is_inclusive(activation_bytes, within):
    cost = Cost(macs=1, num_params=1, activation_bytes=activation_bytes)
    assert Budget.parse("1MiB", "2GFLOPs").satisfied_by(cost) is within


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="metric"):
        Limit(metric="watts", upper=1)


# --- distance


@pytest.mark.parametrize(
    ("macs", "num_params", "deviation"),
    [
        (1000, 1, 0.0),
        (2000, 500, 0.0),
        (2500, 500, 0.25),
        (800, 500, 0.25),
        (2500, 750, 0.5),
        (3000, 750, 0.5),
    ],
)
def test_deviation_is_the_share_by_which_the_limits_have_to_be_relaxed(macs, num_params, deviation):
    budget = Budget.parse("1..2kFLOPs", "500params")
    assert budget.deviation(Cost(macs=macs, num_params=num_params, activation_bytes=10**9)) == deviation
    assert (deviation == 0) == budget.satisfied_by(Cost(macs=macs, num_params=num_params, activation_bytes=10**9))


def test_without_limits_nothing_deviates():
    assert Budget().deviation(Cost(macs=1, num_params=1, activation_bytes=1)) == 0


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.integers(1, 10**12))
def test_a_budget_relaxed_by_its_deviation_holds(one, other, macs):
    budget = Budget.parse(f"{min(one, other)}..{max(one, other)}FLOPs")
    cost = Cost(macs=macs, num_params=1, activation_bytes=1)
    assert budget.relaxed(float(budget.deviation(cost))).satisfied_by(cost)


def test_a_relaxed_budget_keeps_what_it_does_not_limit():
    budget = Budget.parse("2kFLOPs", "100..200params", "5ms@cpu", "1kB")
    assert budget.relaxed(0.5) == Budget.parse("3kFLOPs", "66..300params", "5ms@cpu", "1.5kB")
    assert budget.relaxed(0.0) == budget


def test_an_empty_budget_always_holds():
    assert Budget.parse() == Budget()
    assert Budget().satisfied_by(Cost(macs=10**18, num_params=10**18, activation_bytes=10**6))


def test_a_budget_is_spent_from_a_fraction_of_its_upper_end():
    assert Budget.parse("2GFLOPs", "22Mparams").spent(0.9) == Budget.parse("1.8..2GFLOPs", "22Mparams")


def test_what_is_spent_first_is_what_can_be_a_range():
    assert Budget.parse("300MB", "2GFLOPs").spent(0.9) == Budget.parse("300MB", "1.8..2GFLOPs")
    assert Budget.parse("300MB").spent(0.9) == Budget.parse("300MB")
    assert Budget.parse("300MB", "1..2GFLOPs", "22Mparams").spent(0.9) == Budget.parse(
        "300MB", "1..2GFLOPs", "22Mparams"
    )


@pytest.mark.parametrize("text", ["1..2GFLOPs", "0..2GFLOPs"])
def test_a_range_that_was_given_stays(text):
    assert Budget.parse(text).spent(0.9) == Budget.parse(text)


def test_an_empty_budget_stays_empty():
    assert Budget().spent(0.9) == Budget()


@given(st.integers(1, 10**12), st.floats(0, 1))
def test_a_spent_budget_contains_its_upper_end_and_nothing_beyond(upper, fraction):
    (limit,) = Budget.parse(f"{upper}FLOPs").spent(fraction).limits
    assert limit.upper == upper
    # The lower end is the first whole number that is not less than the fraction.
    assert limit.lower - 1 < fraction * upper <= limit.lower <= upper


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        ((), "no limit"),
        (("2GFLOPs",), "at most 2 GFLOPs"),
        (("1.2..1.4GMACs",), "1.2 GFLOPs to 1.4 GFLOPs"),
        (("0..2GFLOPs", "22Mparams"), "at most 2 GFLOPs and at most 22 Mparams"),
        (("300MB",), "at most 300 MB"),
    ],
)
def test_str(texts, shown):
    assert str(Budget.parse(*texts)) == shown


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("macs", 1_258_240_000, "1.258 GFLOPs"),
        ("macs", 1_000_000_000, "1 GFLOPs"),
        ("macs", 999_000_000, "999 MFLOPs"),
        ("macs", 362_720, "362.7 kFLOPs"),
        ("macs", 12, "0.012 kFLOPs"),
        ("num_params", 5_717_416, "5.717 Mparams"),
        ("num_params", 63_562, "63.56 kparams"),
        ("activation_bytes", 2**20, "1.049 MB"),
    ],
)
def test_costs_are_shown_with_four_digits(metric, value, shown):
    assert format_cost(metric, value) == shown
