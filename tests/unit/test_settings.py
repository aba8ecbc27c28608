import pytest

from pawl.problem import Problem
from pawl.serving.settings import Settings, listed


def test_what_is_not_said_is_as_it_always_is():
    assert (
        Settings.of({})
        == Settings.of({"PAWL_PORT": "", "PAWL_BUNDLE": "", "PATH": "x", "PAWL_NOTHING": "1"})
        == Settings()
    )


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_each_setting_is_read_from_its_own_variable(name):
    value = "7" if type(getattr(Settings(), name)) in {int, float} else "seven"

    settings = Settings.of({f"PAWL_{name.upper()}": value})

    assert str(getattr(settings, name)).removesuffix(".0") == value
    assert {
        other for other in Settings.__struct_fields__ if getattr(settings, other) != getattr(Settings(), other)
    } == {name}


WRONG = [
    *(("PORT", each) for each in ("http", "-1", "65536", "0", "²", "80 80", "8000;", "1e400", "nan")),
    *(("METRICS_PORT", each) for each in ("-1", "65536", "yes")),
    *((name, each) for name in ("LOG_SEGMENT_BYTES", "LOG_MAX_BYTES", "MAX_WAITING") for each in ("0", "-5", "16MB", "0.5", "inf")),
    *((name, each) for name in ("LOG_SEGMENT_SECONDS", "DRAIN_SECONDS") for each in ("-1", "5s", "nan", "inf", "1e9")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_that_does_not_fit_is_told_by_name(name, value):
    with pytest.raises(Problem) as caught:
        Settings.of({f"PAWL_{name}": value})

    assert caught.value.what.startswith(f"PAWL_{name} is {value}: ")
    assert caught.value.code == 2


@pytest.mark.parametrize("value", ["", ",", " ", " , ,"])
def test_keys_that_are_none_do_not_open_the_service(value):
    with pytest.raises(Problem, match="PAWL_API_KEYS holds no key"):
        Settings.of({"PAWL_API_KEYS": value})


def test_two_servers_do_not_share_a_port():
    with pytest.raises(Problem, match="PAWL_METRICS_PORT is 9000, as PAWL_PORT"):
        Settings.of({"PAWL_PORT": "9000", "PAWL_METRICS_PORT": "9000"})


def test_a_list_is_separated_by_commas():
    assert listed(" a, b ,,c,") == ("a", "b", "c")
    assert listed("") == ()
