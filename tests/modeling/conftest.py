def pytest_generate_tests(metafunc):
    if "head_class" in metafunc.fixturenames and metafunc.cls is not None:
        metafunc.parametrize("head_class", metafunc.cls.head_classes)
