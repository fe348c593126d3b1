"""`trainer submit ... -- --model cnn`: trains on Vertex AI, or prints a Kubernetes Job."""

from __future__ import annotations

import datetime
import re
import secrets
import sys
from collections.abc import Collection, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from trainer import storage, task
from trainer.config import check, command_line, flag_name, option_specs
from trainer.config.fields import FolderPath, PositiveFloat, PositiveInt, Text, option
from trainer.errors import TrainerError, UsageError
from trainer.launch import job_flags, kubernetes, machines, tuning, vertex
from trainer.launch.job_flags import JobFlags
from trainer.launch.machines import Machine

_TRIALS = 20
_PARALLEL = 4
_TUNE_OPTIONS = ("trials", "parallel", "metric")
_VERTEX_OPTIONS = ("project", "region", "machine", "tune", *_TUNE_OPTIONS, "dry_run", "yes")
# A letter comes first, so that YAML cannot read a name as a number.
_DNS_LABEL = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"


def _region(value: str) -> str:
    if not re.fullmatch(r"[a-z]+-[a-z]+\d+", value):
        raise ValueError("a region like us-central1, without a zone")
    return value


def _in_bucket(value: str) -> str:
    if not storage.has_bucket(value):
        raise ValueError("gs://bucket/path: the job's machine is deleted with its disk")
    return value


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The job: its image, its output, and under which name and account it runs."""

    GROUP: ClassVar = "Job"

    image: Text | None = option(
        None, "Container image of the job, in a registry that the service can read. Required."
    )
    out: Annotated[FolderPath, AfterValidator(_in_bucket)] | None = option(
        None,
        "Output folder, gs://bucket/path. The run directory is OUT/model on Vertex AI, "
        "OUT/TRIAL/model with --tune, and OUT on Kubernetes. Required.",
    )
    name: Text | None = option(None, "Name of the job. Default: MODEL-DATE-TIME.")
    service_account: Text | None = option(
        None,
        "Service account of the job: an e-mail address; with --kubernetes, the name of a "
        "Kubernetes service account. Default: that of the project or namespace.",
    )
    timeout_hours: PositiveFloat | None = option(
        None, "Hours after which the job is ended. Default: 168 on Vertex AI, none on Kubernetes."
    )


@dataclass(frozen=True, kw_only=True)
class JobMachineOptions:
    """The machines that the job runs on."""

    GROUP: ClassVar = "Machine"

    gpu: Text | None = option(None, "GPU, one of: {gpus}. Default: none, train on the CPU.")
    gpus: PositiveInt | None = option(None, "Number of GPUs per machine. Default: 1 with --gpu.")
    workers: PositiveInt = option(
        1, "Number of machines that train together, each on its share of every batch."
    )
    machine: Text | None = option(
        None, "Machine type. Default: a standard one with these GPUs; {without_gpu} without --gpu."
    )
    spot: bool = option(
        False,
        "Use spot capacity: cheaper, but can be preempted. The job then restarts and resumes.",
    )


@dataclass(frozen=True, kw_only=True)
class VertexOptions:
    """What only Vertex AI needs."""

    GROUP: ClassVar = "Vertex AI"

    project: Text | None = option(
        None, "Google Cloud project that runs the job and is billed for it. Required."
    )
    region: Annotated[Text, AfterValidator(_region)] | None = option(
        None, "Google Cloud region of the job, like us-central1. Required."
    )
    dry_run: bool = option(
        False, "Print the job as YAML for gcloud ai ... create --config, and submit nothing."
    )
    yes: bool = option(False, "Submit without asking for confirmation.")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """A hyperparameter search on Vertex AI."""

    GROUP: ClassVar = "Hyperparameter search"

    tune: Text | None = option(
        None,
        "Hyperparameter search over ranges (:log for a logarithmic scale) and lists of {tunable}; "
        "for example 'learning_rate=1e-4..1e-2:log batch_size=64,128'. Default: no search.",
    )
    trials: PositiveInt | None = option(
        None, f"With --tune: total number of trials. Default: {_TRIALS}."
    )
    parallel: PositiveInt | None = option(
        None, f"With --tune: number of trials that run at the same time. Default: {_PARALLEL}."
    )
    metric: Literal["val_accuracy", "val_loss"] = option(
        "val_accuracy", "With --tune: metric that ranks the trials."
    )


@dataclass(frozen=True, kw_only=True)
class KubernetesOptions:
    """A Job for Kubernetes in place of one for Vertex AI."""

    GROUP: ClassVar = "Kubernetes"

    kubernetes: bool = option(
        False,
        "Print the YAML of a Kubernetes Job for GKE instead (a JobSet with --workers); submit "
        "nothing.",
    )
    namespace: Text | None = option(
        None, "With --kubernetes: namespace of the Job. Default: that of kubectl's context."
    )


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(KubernetesOptions, SearchOptions, VertexOptions, JobMachineOptions, JobOptions):
    """Options of the command."""


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
    """Returns the arguments before and behind the first bare `--`."""
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
    if (options.parallel or 1) > (options.trials or _TRIALS):
        raise UsageError(
            f"--parallel: found {options.parallel}, expected at most --trials, "
            f"{options.trials or _TRIALS}"
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
        name=name,
        image=str(options.image),
        arguments=[*_arguments(job, machine), *log],
        out=str(options.out),
        gpu=machine.gpu,
        gpus=machine.gpus,
        workers=workers,
        spot=options.spot,
        namespace=options.namespace,
        service_account=options.service_account,
        timeout_hours=options.timeout_hours,
    )


def _run_on_vertex(options: SubmitOptions, job: JobFlags, machine: Machine) -> None:
    spec = vertex.job_spec(
        image=str(options.image),
        arguments=_arguments(job, machine),
        machine=machine,
        out=str(options.out),
        workers=options.workers,
        spot=options.spot,
        service_account=options.service_account,
        timeout_hours=options.timeout_hours,
    )
    if options.tune:
        trials = options.trials or _TRIALS
        spec = vertex.tuning_spec(
            spec,
            tuning.study(options.tune, options.metric, job),
            trials=trials,
            parallel=options.parallel or min(_PARALLEL, trials),
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
