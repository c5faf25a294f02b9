import platform

from sclm_hf import __version__
from sclm_hf.versions import package_versions


def test_packages_that_are_not_installed_have_no_version():
    assert package_versions("no-such-package") == {"python": platform.python_version(), "sclm_hf": __version__}
    assert set(package_versions("numpy")) == {"python", "sclm_hf", "numpy"}
