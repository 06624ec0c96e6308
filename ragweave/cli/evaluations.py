"""The command that measures searches: `ragweave eval`."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from google.protobuf import json_format
from rich.markup import escape
from rich.table import Table

from ragweave.cli.calls import follow
from ragweave.cli.console import command, connect, err, fail, out
from ragweave.cli.evaluation_files import queries
from ragweave.client import Client
from ragweave.names import collection_name
from ragweave.v1 import evaluation_pb2, evaluation_service_pb2, job_pb2, search_pb2

_MODES = ("HYBRID", "DENSE", "SPARSE")
_MEASURES = ("recall", "precision", "mrr", "ndcg")
_CUTOFFS = (1, 3, 5, 10, 100)
_PERCENTILES = ("p50", "p90", "p95", "p99")
_COUNTS = ("answered", "failed", "empty", "lacking")
_MOST_TOLD = 5
_SHOWN_AT = 10
_GATE = re.compile(rf"({'|'.join(_MEASURES)})@({'|'.join(map(str, _CUTOFFS))})=(\d*\.?\d+)")
_NAME = re.compile(r"(sampleQuerySets/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

_Evaluation = evaluation_pb2.Evaluation


@command("eval")
def eval_(
    set_: Annotated[
        str,
        typer.Option("--set", "-s", help="A file of JSON lines {id, query, relevant: {document id: grade}}; or a set."),
    ],
    collection: Annotated[list[str], typer.Option("--collection", "-c", help="What to search; repeatable.")],
    mode: Annotated[str, typer.Option(help="HYBRID, DENSE or SPARSE; or a whole SearchRequest as JSON.")] = "HYBRID",
    against: Annotated[str, typer.Option(help="What to compare it to: as --mode.")] = "",
    qrels: Annotated[
        Path | None, typer.Option(help="Judgements of the file's queries, as BEIR and TREC have them.")
    ] = None,
    gates: Annotated[
        list[str] | None, typer.Option("--min", help="Least that is enough, such as ndcg@10=.6; repeatable.")
    ] = None,
    most: Annotated[
        int, typer.Option("--queries", min=0, help="Queries to show one by one: what got worse, or is worst, first.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="The whole evaluation as JSON.")] = False,
) -> None:
    """Measure how well searches answer questions whose answers are known; ends with 1 where a --min is not reached."""
    wanted = [_gate(gate) for gate in gates or ()]
    configurations = [_configuration(each, called) for each, called in ((against, "against"), (mode, "mode")) if each]
    if len({each.name for each in configurations}) < len(configurations):
        fail("--against: compare it to something else")
    with connect() as client:
        asked = _Evaluation(
            sample_query_set=_set(client, set_, qrels),
            collections=[collection_name(each) for each in collection],
            configurations=configurations,
        )
        # With --json nothing else is printed.
        evaluation = _evaluated(client, asked, Client.wait if as_json else follow)
        worst_first = "difference" if len(configurations) == 2 else "ndcg"
        shown = list(islice(_each_query(client, evaluation, order_by=worst_first), most))
        lacking = list(islice(_each_query(client, evaluation, filter="lacking = true"), _MOST_TOLD))
    if as_json:
        told = json_format.MessageToDict(evaluation)
        if shown:
            told["queries"] = [json_format.MessageToDict(one) for one in shown]
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        told_of = f"{evaluation.query_count} queries of {evaluation.sample_query_set}"
        out.print(f"{evaluation.name}: {told_of}", markup=False, soft_wrap=True)
        out.print(_table(evaluation))
        if shown:
            out.print(_queries_table(evaluation, shown))
    for one in lacking:
        names = ", ".join(dict.fromkeys(name for outcome in one.outcomes for name in outcome.lacking))
        err.print(f"[yellow]not there to be found:[/yellow] {escape(names)} of {escape(one.id)}", soft_wrap=True)
    missed = list(_missed(evaluation.results[-1], wanted))
    for each in missed:
        err.print(f"[red]not enough:[/red] {each}", soft_wrap=True)
    if missed:
        raise typer.Exit(1)


def _evaluated(client: Client, wanted: _Evaluation, ended: Callable[[Client, str], job_pb2.Job]) -> _Evaluation:
    """The evaluation with its results; `ended` gives its job once that has ended."""
    request = evaluation_service_pb2.CreateEvaluationRequest(evaluation=wanted)
    job = ended(client, client.evaluations.CreateEvaluation(request).name)
    asked = evaluation_service_pb2.ListEvaluationsRequest(filter=f'job = "{job.name}"')
    for found in client.evaluations.ListEvaluations(asked).evaluations:
        if found.state == _Evaluation.FINISHED:
            return found  # type: ignore[no-any-return]
    fail(f"{job.name} is {job_pb2.Job.State.Name(job.state)}: {job.error.message or 'there are no results'}")


def _each_query(
    client: Client, evaluation: _Evaluation, *, filter: str = "", order_by: str = ""
) -> Iterator[evaluation_pb2.EvaluatedQuery]:
    request = evaluation_service_pb2.ListEvaluatedQueriesRequest(
        parent=evaluation.name, page_size=100, filter=filter, order_by=order_by
    )
    while True:
        page = client.evaluations.ListEvaluatedQueries(request)
        yield from page.queries
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _configuration(text: str, called: str) -> _Evaluation.Configuration:
    """By a mode's name, or by JSON, which is called by its option."""
    if text.upper() in _MODES:
        search = search_pb2.SearchRequest(mode=search_pb2.SearchRequest.Mode.Value(text.upper()))
        return _Evaluation.Configuration(name=text.lower(), search=search)
    try:
        return _Evaluation.Configuration(name=called, search=json_format.Parse(text, search_pb2.SearchRequest()))
    except json_format.ParseError as error:
        fail(f"--{called}: takes {', '.join(_MODES)} or a SearchRequest as JSON: {error}")


def _gate(text: str) -> tuple[str, int, float]:
    found = _GATE.fullmatch(text)
    if found is None:
        fail(f"--min: {text!r} is none such as ndcg@10=.6; there are {', '.join(_MEASURES)} @ 1, 3, 5, 10, 100")
    return found[1], int(found[2]), float(found[3])


def _missed(result: _Evaluation.Result, wanted: list[tuple[str, int, float]]) -> Iterator[str]:
    if wanted and result.failed:
        yield f"{result.failed} queries failed, which no measure counts"
    measures = {each.k: each for each in result.measures}
    for name, k, least in wanted:
        reached = getattr(measures[k], name) if k in measures else 0.0
        if reached < least:
            yield f"{name}@{k} is {reached:.4f}, less than {least:g}"


def _set(client: Client, given: str, qrels: Path | None) -> str:
    """The set's name; a file is sent, and takes the place of what was sent by its name before."""
    path = Path(given)
    if not path.is_file():
        if not _NAME.fullmatch(given) or qrels is not None:
            fail(f"{given}: no such file")
        return given
    stem = re.sub(r"[^A-Za-z0-9_.-]", "-", path.stem)[:128]
    sent = evaluation_pb2.SampleQuerySet(queries=queries(path, qrels), description=f"from {path.name}")
    create = evaluation_service_pb2.CreateSampleQuerySetRequest(sample_query_set=sent, sample_query_set_id=stem)
    try:
        return str(client.evaluations.CreateSampleQuerySet(create).name)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
            raise
    sent.name = f"sampleQuerySets/{stem}"
    update = evaluation_service_pb2.UpdateSampleQuerySetRequest(sample_query_set=sent)
    return str(client.evaluations.UpdateSampleQuerySet(update).name)


def _table(evaluation: _Evaluation) -> Table:
    results = list(evaluation.results)
    table = Table("")
    for result in results:
        table.add_column(result.configuration, justify="right")
    if len(results) == 2:
        table.add_column("difference", justify="right")
        table.add_column("by chance", justify="right")
    differences = {(each.measure, each.k): each for each in evaluation.differences}
    for name in _MEASURES:
        for at, k in enumerate(_CUTOFFS):
            row = [f"{getattr(result.measures[at], name):.4f}" if result.measures else "" for result in results]
            if found := differences.get((name, k)):
                colour = "dim" if found.p_value > 0.05 else "green" if found.mean > 0 else "red"
                row += [f"[{colour}]{found.mean:+.4f}[/{colour}]", f"{found.p_value:.4f}"]
            table.add_row(f"{name}@{k}", *row)
        table.add_section()
    for percentile in _PERCENTILES:
        times_ms = [getattr(result.latency, percentile).ToMicroseconds() / 1000 for result in results]
        change = [f"{times_ms[1] - times_ms[0]:+.1f} ms"] if len(results) == 2 else []
        table.add_row(f"latency {percentile}", *(f"{time_ms:.1f} ms" for time_ms in times_ms), *change)
    table.add_section()
    for count in _COUNTS:
        table.add_row(count, *(str(getattr(result, count)) for result in results))
    return table


def _queries_table(evaluation: _Evaluation, queries: list[evaluation_pb2.EvaluatedQuery]) -> Table:
    """nDCG@10 of each query, side by side; or why there is none."""
    table = Table("query", "", title="nDCG@10, query by query", title_justify="left")
    for result in evaluation.results:
        table.add_column(result.configuration, justify="right")
    if len(evaluation.results) == 2:
        table.add_column("difference", justify="right")
    for query in queries:
        row = [_ndcg(each.measures) or escape(each.error) for each in query.outcomes]
        if len(evaluation.results) == 2:
            row.append(_ndcg(query.differences, "+"))
        table.add_row(escape(query.id), escape(query.text), *row)
    return table


def _ndcg(measures: Iterable[Any], sign: str = "") -> str:
    return next((f"{each.ndcg:{sign}.4f}" for each in measures if each.k == _SHOWN_AT), "")
