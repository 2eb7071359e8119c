"""``leakboard spectrum``."""

import argparse

from benchmark.cli.parts import Parts
from benchmark.jobs.conductor import Conductor
from benchmark.studies import spectrum
from benchmark.studies.study import carry_out as carry_out_studies
from benchmark.suite.suite import parse, read, suite_path, whole_number


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard spectrum``."""
    victims = whole_number("--victims", options.victims, at_least=1)
    path = suite_path(options.suite)
    suite = parse({"attacks": ["IDLG"]} | read(path), path.stem, victims)  # attacks are of no importance here
    conductor = Conductor.of(options, suite.name)
    print(carry_out_studies(spectrum.plan(suite, conductor.bench), spectrum.Spectra(), conductor), end="")
    return 0
