"""`trainer submit ... -- --model cnn`: trains on Vertex AI, or writes a Kubernetes Job."""

from __future__ import annotations

import datetime
import re
import secrets
import sys
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator

from trainer import task
from trainer.config import check, command_line, flag_name, option_specs
from trainer.config.fields import Count, Place, Rate, Text, option
from trainer.errors import TrainerError, UsageError
from trainer.launch import job_flags, kubernetes, machines, tuning, vertex
from trainer.launch.job_flags import JobFlags
from trainer.launch.machines import Machine

_TRIALS = 20
_PARALLEL = 4
_MOUNTED_BUCKETS = "/gcs/"
_OF_TUNE = ("trials", "parallel", "metric")
_OF_VERTEX = ("project", "region", "machine", "tune", *_OF_TUNE, "dry_run", "yes")
# Also for what YAML must not take for a number, hence the letter in front.
_DNS_LABEL = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"


def _region(value: str) -> str:
    if not re.fullmatch(r"[a-z]+-[a-z]+\d+", value):
        raise ValueError("a region like us-central1; the service chooses the zone")
    return value


def _in_bucket(value: str) -> str:
    if not re.fullmatch(r"gs://[^/]+(/.+)?", value):
        raise ValueError("gs://bucket/path, since the job's machine goes away with what is on it")
    return value


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the command."""

    project: Text | None = option(None, "Google Cloud project that runs the job and pays for it.")
    region: Annotated[Text, AfterValidator(_region)] | None = option(
        None, "Where the job runs, like us-central1."
    )
    image: Text | None = option(None, "Container image of the job, in a registry.")
    out: Annotated[Place, AfterValidator(_in_bucket)] | None = option(
        None,
        "gs://bucket/path. On Vertex AI the run directory is OUT/model, and OUT/TRIAL/model with "
        "--tune; on Kubernetes it is OUT.",
    )
    gpu: Text | None = option(None, "One of {gpus}. Left out, the job computes on the CPU.")
    gpus: Count | None = option(None, "How many GPUs, on one machine. Left out, 1.")
    workers: Count = option(1, "How many such machines train together, each its share of a batch.")
    machine: Text | None = option(
        None, "Machine type. Left out, the usual one with these GPUs, or {without_gpu}."
    )
    spot: bool = option(
        False, "Use spare capacity: cheaper, and taken away at times; the job then goes on."
    )
    name: Text | None = option(None, "Name of the job. Left out, MODEL-DATE-TIME.")
    service_account: Text | None = option(
        None, "Account that the job runs as: its e-mail address; on Kubernetes the name of one."
    )
    timeout_hours: Rate | None = option(
        None, "Hours after which the job is ended. Left out, Vertex AI's 168; none on Kubernetes."
    )
    tune: Text | None = option(
        None,
        "Search: 'learning_rate=1e-4..1e-2:log batch_size=64,128 model=mlp,cnn', with ranges "
        "(:log for orders of magnitude) and lists of {tunable}.",
    )
    trials: Count | None = option(None, f"With --tune: trials in all. Left out, {_TRIALS}.")
    parallel: Count | None = option(
        None, f"With --tune: trials at the same time. Left out, {_PARALLEL}."
    )
    metric: Literal["val_accuracy", "val_loss"] = option(
        "val_accuracy", "With --tune: what trials are compared by, val_accuracy or val_loss."
    )
    dry_run: bool = option(False, "Print the YAML that gcloud takes as --config, and send nothing.")
    yes: bool = option(False, "Do not ask before the job is submitted.")
    kubernetes: bool = option(
        False,
        "Print the YAML of a Kubernetes Job for GKE instead, or of a JobSet with --workers, and send "
        "nothing.",
    )
    namespace: Text | None = option(None, "With --kubernetes: namespace of the Job.")


def main(arguments: Sequence[str], *, program: str) -> None:
    """Submits a job and follows it to its end; exits with the job's own code."""
    mine, of_job = _split(arguments)
    with command_line.exit_codes(program, mine):
        flags = command_line.parse_values(
            mine,
            option_specs(Settings),
            program=program,
            summary="Trains on Vertex AI, or writes a Kubernetes Job. The flags of the job itself "
            "stand behind a bare --, as in -- --model cnn.",
            names={
                "gpus": ", ".join(machines.GPUS),
                "without_gpu": machines.WITHOUT_GPU,
                "tunable": ", ".join(tuning.TUNABLE),
            },
        )
        settings = check(Settings, flags)
        job = job_flags.read(
            of_job, program=program, mounted=None if settings.kubernetes else _MOUNTED_BUCKETS
        )
        _check_together(settings, flags)
        task.check_workers(job.config, settings.workers)
        machine = machines.choose(settings.gpu, settings.gpus, settings.machine)
        if settings.kubernetes:
            print(_yaml(_kubernetes_job(settings, job, machine)), end="")
        else:
            _on_vertex(settings, job, machine)


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Returns what stands before the first bare `--`, and what stands behind it."""
    if "--" not in arguments:
        return arguments, ()
    place = list(arguments).index("--")
    return arguments[:place], arguments[place + 1 :]


def _check_together(settings: Settings, given: Collection[str]) -> None:
    """Raises UsageError for flags that are missing, or have no meaning beside the others."""
    needed = ("image", "out") if settings.kubernetes else ("project", "region", "image", "out")
    missing = [flag_name(name) for name in needed if getattr(settings, name) is None]
    if missing:
        raise UsageError(f"Missing {', '.join(missing)}.")
    for names, useful, mistake in (
        (_OF_TUNE, settings.tune is not None, "without --tune, which it belongs to"),
        (_OF_VERTEX, not settings.kubernetes, "beside --kubernetes, which has no use for it"),
        (("namespace",), settings.kubernetes, "without --kubernetes, which it belongs to"),
    ):
        for name in names:
            if name in given and not useful:
                raise UsageError(f"{flag_name(name)}: found {mistake}")
    if (settings.parallel or 1) > (settings.trials or _TRIALS):
        raise UsageError(
            f"--parallel: found {settings.parallel}, expected at most --trials, which is "
            f"{settings.trials or _TRIALS}"
        )


def _name(settings: Settings, job: JobFlags) -> str:
    if settings.name:
        return settings.name
    model = re.sub(r"[^a-z0-9]+", "-", job.config.model.lower()).strip("-")
    return f"{model[:30]}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _arguments(job: JobFlags, machine: Machine) -> list[str]:
    """Returns the job's arguments; a GPU that is paid for and not seen is an error there."""
    insisting = machine.gpu is not None and "device" not in job.typed
    return [*job.arguments, *(["--device=gpu"] if insisting else [])]


def _kubernetes_job(settings: Settings, job: JobFlags, machine: Machine) -> dict[str, Any]:
    name = _name(settings, job)
    for where, label in (("--name", name), ("--namespace", settings.namespace or "default")):
        if not re.fullmatch(_DNS_LABEL, label):
            raise UsageError(
                f"{where}: found {label!r}, expected at most 63 small letters, digits and '-', a "
                "letter first"
            )
    workers = settings.workers
    if workers > 1 and (surplus := len(kubernetes.longest_pod_name(name, workers)) - 63) > 0:
        raise UsageError(
            f"--name: found {name!r}, expected at most {len(name) - surplus} characters with "
            f"--workers {workers}, for Kubernetes adds to it for the names of pods"
        )
    # A cluster's collector reads severities from JSON; on Vertex AI the job knows by itself.
    log = [] if "log" in job.typed else ["--log=json"]
    return kubernetes.job(
        name=name,
        image=str(settings.image),
        arguments=[*_arguments(job, machine), *log],
        out=str(settings.out),
        gpu=machine.gpu,
        gpus=machine.gpus,
        workers=workers,
        spot=settings.spot,
        namespace=settings.namespace,
        service_account=settings.service_account,
        timeout_hours=settings.timeout_hours,
    )


def _on_vertex(settings: Settings, job: JobFlags, machine: Machine) -> None:
    spec = vertex.job_spec(
        image=str(settings.image),
        arguments=_arguments(job, machine),
        machine=machine,
        out=str(settings.out),
        workers=settings.workers,
        spot=settings.spot,
        service_account=settings.service_account,
        timeout_hours=settings.timeout_hours,
    )
    if settings.tune:
        trials = settings.trials or _TRIALS
        spec = vertex.tuning_spec(
            spec,
            tuning.study(settings.tune, settings.metric, job),
            trials=trials,
            parallel=settings.parallel or min(_PARALLEL, trials),
        )
    if settings.dry_run:
        print(_yaml(spec), end="")
        return
    if not settings.yes and not sys.stdin.isatty():
        raise UsageError("no terminal to ask on whether to submit the job: expected --yes")
    make = vertex.tuning_job if settings.tune else vertex.custom_job
    document = make(spec, name=_name(settings, job), token=f"t{secrets.token_hex(8)}")
    _submit(settings, document, dry_run=job.config.dry_run)


def _submit(settings: Settings, document: dict[str, Any], *, dry_run: bool) -> None:
    """Submits a job and follows it; with `dry_run` there will be no run directory."""
    # Not before all flags are checked: a typo is answered without Google's imports.
    import rich.console

    from trainer.launch import trials, watch
    from trainer.launch.jobs import Jobs
    from trainer.launch.logs import JobLog

    project, region = str(settings.project), str(settings.region)
    jobs = Jobs(project, region, tuning=settings.tune is not None)
    print(_yaml(document), end="", file=sys.stderr)
    if settings.tune:
        print(
            "Trials report their metric in a file that only root can write: the image has to run "
            "as root, as the Dockerfile's target root does.",
            file=sys.stderr,
        )
    if not settings.yes:
        print(f"Submit this job to {project} in {region}? [y/N] ", end="", file=sys.stderr)
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UsageError("not submitted, as you answered")
    try:
        job = jobs.create(document)
    except KeyboardInterrupt:
        print(jobs.in_doubt(document), file=sys.stderr)
        raise
    name = job["name"]
    print(f"submitted {name}", file=sys.stderr)
    try:
        ended = watch.until_end(jobs, job, JobLog(project, name.rpartition("/")[2]))
    except (KeyboardInterrupt, TrainerError):
        print(
            f"The job is left as it is. Look at it: {jobs.command('stream-logs', name)}\n"
            f"End it: {jobs.command('cancel', name)}",
            file=sys.stderr,
        )
        raise
    if settings.tune:
        rich.console.Console().print(trials.table(ended))
    watch.check_succeeded(ended)
    # The last line on stdout is the run directory, as that of a training on this machine.
    trial = trials.best(ended) if settings.tune else None
    if not dry_run and not (settings.tune and trial is None):
        print("/".join(filter(None, (settings.out, trial, "model"))))


def _yaml(document: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(document, sort_keys=False, width=1000)
