import pytest


def pytest_generate_tests(metafunc):
    if "head_class" in metafunc.fixturenames and metafunc.cls is not None:
        first, *others = metafunc.cls.head_classes
        if getattr(metafunc.function, "costs_a_second", False):
            others = [pytest.param(head, marks=pytest.mark.slow) for head in others]
        metafunc.parametrize("head_class", [first, *others])
