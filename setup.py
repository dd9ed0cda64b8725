"""The native half of the build; everything else about the package is in pyproject.toml.

`pip install .` builds dreamfusion_ngp._C. Never imports torch, never needs a GPU. Environment variables that steer the
build are described in build_support.py.
"""

import sys
from pathlib import Path

from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).parent.resolve()))  # build isolation leaves the project's own folder out

from build_support import CMakeBuild, FreshBuild, cmake_requirement

setup(
    setup_requires=cmake_requirement(),
    ext_modules=[Extension("dreamfusion_ngp._C", sources=[])],
    cmdclass={"build": FreshBuild, "build_ext": CMakeBuild},
    zip_safe=False,
)
