"""Java programs for the comparison: fetched by Maven, compiled here, each once."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
KAFKA: Final = ROOT / "compat_tests" / "java"
PRAVEGA: Final = Path(__file__).resolve().parent / "pravega"
FETCH_SECONDS_MAX: Final = 600
COMPILE_SECONDS_MAX: Final = 120


class NoJava(Exception):
    """A JDK or Maven is missing."""


def fetched(project: Path) -> Path:
    """The directory with the jars of the project's pom.xml; a new pom.xml fetches them again."""
    for program in ("java", "javac", "mvn"):
        if shutil.which(program) is None:
            raise NoJava(f"{program} is missing: apt-get install default-jdk-headless maven")
    pom, stamp = project / "pom.xml", project / "target" / ".loaded"
    if not stamp.exists() or stamp.stat().st_mtime < pom.stat().st_mtime:
        command = ["mvn", "-q", "-B", "-Dstyle.color=never", "-f", str(pom), "dependency:copy-dependencies"]
        subprocess.run([*command, "-DoutputDirectory=target/lib"], check=True, timeout=FETCH_SECONDS_MAX)
        stamp.touch()
    return project / "target" / "lib"


def pravega_class_path() -> str:
    """Pravega's jars and our load program, compiled when its source is newer."""
    jars = fetched(PRAVEGA)
    source = PRAVEGA / "src" / "main" / "java" / "penstock" / "bench" / "PravegaLoad.java"
    classes = PRAVEGA / "target" / "classes"
    compiled = classes / "penstock" / "bench" / "PravegaLoad.class"
    if not compiled.exists() or compiled.stat().st_mtime < source.stat().st_mtime:
        command = ["javac", "--release", "17", "-cp", f"{jars}/*", "-d", str(classes), str(source)]
        subprocess.run(command, check=True, timeout=COMPILE_SECONDS_MAX)
    return f"{classes}:{jars}/*"
