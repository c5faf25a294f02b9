import pytest

EVERYDAY = ("scgpt",)
CLASSIFIERS = ("ForSequenceClassification", "ForSampleClassification")


def head_param(metafunc, head):
    """The head as a parameter, marked as slow where the default run does without it."""
    dear, first = getattr(metafunc.function, "costs_seconds", False), metafunc.cls.head_classes[0]
    slow = (dear and metafunc.cls.family not in EVERYDAY) or (
        (dear or getattr(metafunc.function, "costs_a_second", False)) and head is not first
    )
    return pytest.param(head, marks=pytest.mark.slow) if slow else head


def pytest_generate_tests(metafunc):
    if metafunc.cls is None:
        return
    if "head_class" in metafunc.fixturenames:
        metafunc.parametrize("head_class", [head_param(metafunc, head) for head in metafunc.cls.head_classes])
    if "classifier_class" in metafunc.fixturenames:
        classifiers = [head for head in metafunc.cls.head_classes if head.__name__.endswith(CLASSIFIERS)]
        metafunc.parametrize("classifier_class", classifiers)
