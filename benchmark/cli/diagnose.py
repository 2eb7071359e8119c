"""``leakboard diagnose``."""

import argparse

from benchmark.cli.parts import Parts
from benchmark.jobs.conductor import Conductor
from benchmark.studies import diagnosis
from benchmark.studies.study import carry_out as carry_out_studies
from benchmark.suite.suite import load, suite_path, whole_number


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard diagnose``."""
    victims = whole_number("--victims", options.victims, at_least=1)
    suite = load(suite_path(options.suite))
    conductor = Conductor.of(options, suite.name)
    print(carry_out_studies(diagnosis.plan(suite, victims, conductor.bench), diagnosis.Diagnoses(), conductor), end="")
    return 0
