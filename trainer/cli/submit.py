"""`trainer submit ... -- --model cnn`: trains on Vertex AI, or prints a Kubernetes Job."""

from __future__ import annotations

import datetime
import re
import secrets
import sys
from collections.abc import Collection, Sequence
from typing import Any

from trainer import task
from trainer.config import check, command_line, flag_name, option_specs
from trainer.errors import TrainerError, UsageError
from trainer.launch import job_flags, kubernetes, machines, tuning, vertex
from trainer.launch.job_flags import JobFlags
from trainer.launch.machines import Machine
from trainer.launch.options import DEFAULT_PARALLEL, DEFAULT_TRIALS, SubmitOptions

_TUNE_OPTIONS = ("trials", "parallel", "metric")
_VERTEX_OPTIONS = ("project", "region", "machine", "tune", *_TUNE_OPTIONS, "dry_run", "yes")
# A letter comes first, so that YAML cannot read a name as a number.
_DNS_LABEL = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"


def main(arguments: Sequence[str], *, program: str) -> None:
    """Submits a job and watches it until it ends; exits with the exit code of the job."""
    own_arguments, job_arguments = _split(arguments)
    with command_line.exit_codes(program, own_arguments):
        flags = command_line.parse_values(
            own_arguments,
            option_specs(SubmitOptions),
            program=program,
            summary="Trains on Vertex AI, or prints a Kubernetes Job. Flags of the training job "
            "follow a bare --, as in -- --model cnn; -- --help lists them.",
            names={
                "gpus": ", ".join(machines.GPUS),
                "without_gpu": machines.WITHOUT_GPU,
                "tunable": ", ".join(tuning.TUNABLE),
            },
        )
        options = check(SubmitOptions, flags)
        job = job_flags.read(job_arguments, program=program, mounted_buckets=not options.kubernetes)
        _check_combination(options, flags)
        task.check_workers(job.config, options.workers)
        machine = machines.choose(options.gpu, options.gpus, options.machine)
        if options.kubernetes:
            print(_yaml(_kubernetes_job(options, job, machine)), end="")
        else:
            _run_on_vertex(options, job, machine)


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Returns the arguments before and after the first bare `--`."""
    if "--" not in arguments:
        return arguments, ()
    separator = list(arguments).index("--")
    return arguments[:separator], arguments[separator + 1 :]


def _check_combination(options: SubmitOptions, flags: Collection[str]) -> None:
    """Raises UsageError for missing flags, and for flags that do not apply to this job."""
    required = ("image", "out") if options.kubernetes else ("project", "region", "image", "out")
    missing = [flag_name(name) for name in required if getattr(options, name) is None]
    if missing:
        raise UsageError(f"Missing {', '.join(missing)}.")
    for names, applies, problem in (
        (_TUNE_OPTIONS, options.tune is not None, "found without --tune, expected both or neither"),
        (_VERTEX_OPTIONS, not options.kubernetes, "found with --kubernetes, expected one of them"),
        (
            ("namespace",),
            options.kubernetes,
            "found without --kubernetes, expected both or neither",
        ),
    ):
        for name in names:
            if name in flags and not applies:
                raise UsageError(f"{flag_name(name)}: {problem}")
    if (options.parallel or 1) > (options.trials or DEFAULT_TRIALS):
        raise UsageError(
            f"--parallel: found {options.parallel}, expected at most --trials, "
            f"{options.trials or DEFAULT_TRIALS}"
        )


def _name(options: SubmitOptions, job: JobFlags) -> str:
    if options.name:
        return options.name
    model = re.sub(r"[^a-z0-9]+", "-", job.config.model.lower()).strip("-")
    return f"{model[:30]}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _arguments(job: JobFlags, machine: Machine) -> list[str]:
    """Returns the job's arguments; --device=gpu makes it fail if it cannot open a paid GPU."""
    require_gpu = machine.gpu is not None and "device" not in job.values
    return [*job.arguments, *(["--device=gpu"] if require_gpu else [])]


def _kubernetes_job(options: SubmitOptions, job: JobFlags, machine: Machine) -> dict[str, Any]:
    name = _name(options, job)
    for flag, label in (("--name", name), ("--namespace", options.namespace or "default")):
        if not re.fullmatch(_DNS_LABEL, label):
            raise UsageError(
                f"{flag}: found {label!r}, expected at most 63 lower-case letters, digits and '-', "
                "starting with a letter"
            )
    workers = options.workers
    if workers > 1 and (surplus := len(kubernetes.longest_pod_name(name, workers)) - 63) > 0:
        raise UsageError(
            f"--name: found {name!r}, expected at most {len(name) - surplus} characters with "
            f"--workers {workers}, since Kubernetes appends to it in the names of pods"
        )
    # GKE reads severities from JSON lines. On Vertex AI the job itself selects this format.
    log = [] if "log" in job.values else ["--log=json"]
    return kubernetes.job(
        options, name=name, arguments=[*_arguments(job, machine), *log], machine=machine
    )


def _run_on_vertex(options: SubmitOptions, job: JobFlags, machine: Machine) -> None:
    spec = vertex.job_spec(options, arguments=_arguments(job, machine), machine=machine)
    if options.tune:
        trials = options.trials or DEFAULT_TRIALS
        spec = vertex.tuning_spec(
            spec,
            tuning.study(options.tune, options.metric, job),
            trials=trials,
            parallel=options.parallel or min(DEFAULT_PARALLEL, trials),
        )
    if options.dry_run:
        print(_yaml(spec), end="")
        return
    if not options.yes and not sys.stdin.isatty():
        raise UsageError("cannot ask for confirmation: stdin is not a terminal. Expected --yes")
    build = vertex.tuning_job if options.tune else vertex.custom_job
    document = build(spec, name=_name(options, job), token=f"t{secrets.token_hex(8)}")
    _submit(options, document, dry_run=job.config.dry_run)


def _submit(options: SubmitOptions, document: dict[str, Any], *, dry_run: bool) -> None:
    """Submits a job, watches it, and prints its run directory.

    Args:
        options: options of the command.
        document: JSON of the job.
        dry_run: whether the job itself is a dry run, which leaves no run directory.
    """
    # Imported only after the flags are checked: Google's libraries take long to import.
    import rich.console

    from trainer.launch import trials, watch
    from trainer.launch.jobs import Jobs
    from trainer.launch.logs import JobLog

    project, region = str(options.project), str(options.region)
    jobs = Jobs(project, region, tuning=options.tune is not None)
    print(_yaml(document), end="", file=sys.stderr)
    if options.tune:
        print(
            "Trials report their metric in a file that only root can write: the image must run as "
            "root, like the Dockerfile's target root.",
            file=sys.stderr,
        )
    if not options.yes:
        print(f"Submit this job to {project} in {region}? [y/N] ", end="", file=sys.stderr)
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UsageError("not submitted: the answer was not y")
    try:
        job = jobs.create(document)
    except KeyboardInterrupt:
        print(jobs.search_hint(document), file=sys.stderr)
        raise
    name = job["name"]
    print(f"submitted {name}", file=sys.stderr)
    try:
        finished_job = watch.until_end(jobs, job, JobLog(project, name.rpartition("/")[2]))
    except (KeyboardInterrupt, TrainerError):
        print(
            f"The job continues to run. To watch it: {jobs.command('stream-logs', name)}\n"
            f"To end it: {jobs.command('cancel', name)}",
            file=sys.stderr,
        )
        raise
    if options.tune:
        rich.console.Console().print(trials.table(finished_job))
    watch.check_succeeded(finished_job)
    # The last line on stdout is the run directory, as for training on this machine.
    trial = trials.best(finished_job) if options.tune else None
    if not dry_run and not (options.tune and trial is None):
        print("/".join(filter(None, (options.out, trial, "model"))))


def _yaml(document: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(document, sort_keys=False, width=1000)
