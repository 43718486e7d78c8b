"""Runs of jobs over HTTP."""

from enum import Enum
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from app.core.deps import JobReader, provided
from app.core.pagination import PAGED, PageRequest, page_request
from app.core.problem import problem_responses
from app.core.scheduler import RunState
from app.core.schemas import parse_id
from app.job_runs.schemas import JobFilters, JobName, JobRun
from app.job_runs.service import JobRuns

router = APIRouter(prefix="/api/v1/jobs")

Runs = Annotated[JobRuns, provided(JobRuns)]
JOBS: list[str | Enum] = ["Jobs"]


@router.get(
    "",
    tags=JOBS,
    summary="What the service did by the clock and on request",
    response_class=Response,
    responses={200: {"model": list[JobRun], **PAGED[200]}, **problem_responses(401)},
)
async def list_jobs(
    request: Request,
    response: Response,
    caller: JobReader,
    runs: Runs,
    page: Annotated[PageRequest, Depends(page_request)],
    job: Annotated[JobName | None, Query(description="Of this job only.", examples=["crypto.top50"])] = None,
    state: Annotated[RunState | None, Query()] = None,
) -> Response:
    """Runs of jobs, newest first; kept for 30 days. Follow them as they change on the channel `jobs` of `/ws`."""
    found = await runs.page(caller, JobFilters(job=job, state=state), page)
    rows = found.announce(request, response)
    return Response(b"[" + b",".join(rows) + b"]", headers=dict(response.headers), media_type="application/json")


@router.get(
    "/{job_id}",
    tags=JOBS,
    summary="One run of a job",
    response_class=Response,
    responses={200: {"model": JobRun}, **problem_responses(401, 404)},
)
async def get_job(
    job_id: Annotated[str, Path(max_length=200, description="The run's id.", examples=["6b02893a002b26997921d778"])],
    caller: JobReader,
    runs: Runs,
) -> Response:
    """How it stands; what was asked for with a 202 is followed here, or on the channel `jobs` of `/ws`."""
    return Response(await runs.get(caller, parse_id(job_id, "job")), media_type="application/json")
