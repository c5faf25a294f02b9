import pytest

CLASSIFIERS = ("ForSequenceClassification", "ForSampleClassification")


def pytest_generate_tests(metafunc):
    if metafunc.cls is None:
        return
    if "head_class" in metafunc.fixturenames:
        first, *others = metafunc.cls.head_classes
        if getattr(metafunc.function, "costs_a_second", False):
            others = [pytest.param(head, marks=pytest.mark.slow) for head in others]
        metafunc.parametrize("head_class", [first, *others])
    if "classifier_class" in metafunc.fixturenames:
        classifiers = [head for head in metafunc.cls.head_classes if head.__name__.endswith(CLASSIFIERS)]
        metafunc.parametrize("classifier_class", classifiers)
