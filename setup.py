"""`pip install .` builds dreamfusion_ngp with its native module. Never imports torch, never needs a GPU.

Environment variables that steer the build are described in build_support.py.
"""

import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

if sys.version_info < (3, 11):
    raise SystemExit(f"dreamfusion_ngp needs Python 3.11 or newer; this is {sys.version.split()[0]}")

ROOT = Path(__file__).parent.resolve()
sys.path.insert(0, str(ROOT))  # build isolation leaves the project's own folder out

from build_support import CMakeBuild, FreshBuild, cmake_requirement  # noqa: E402
from dreamfusion_ngp import __version__  # noqa: E402

README = ROOT / "README.md"

setup(
    name="dreamfusion_ngp",
    version=__version__,
    description="Text to a textured 3D mesh: a CUDA- and CPU-accelerated DreamFusion with an embedded diffusion prior",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="the dreamfusion_ngp authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Graphics :: 3D Modeling",
    ],
    packages=find_packages(include=["dreamfusion_ngp", "dreamfusion_ngp.*"]),
    package_data={"dreamfusion_ngp": ["toybox/priors/**", "evaluation/*.safetensors"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.6",
        "numpy",
        "diffusers>=0.42",
        "transformers>=5",
        "huggingface-hub>=1.32",
        "safetensors",
        "pillow",
        "scikit-image",
        "scipy",
        "trimesh",
        "xatlas",
        "fast-simplification",
        "rich",
        "imageio-ffmpeg",
    ],
    extras_require={
        # tiny-cuda-nn is used where it is installed, and is no extra: it must be built for one's own GPU and torch.
        "test": ["pytest", "hypothesis", "drjit", "setuptools>=68", "pybind11>=2.12", "ninja"],
    },
    setup_requires=cmake_requirement(),
    entry_points={"console_scripts": ["dreamfusion-ngp = dreamfusion_ngp.cli:main"]},
    ext_modules=[Extension("dreamfusion_ngp._C", sources=[])],
    cmdclass={"build": FreshBuild, "build_ext": CMakeBuild},
    zip_safe=False,
)
