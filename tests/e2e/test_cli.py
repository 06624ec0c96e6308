"""The `ragweave` command as people use it."""

import json
import re
import time
from pathlib import Path

import pytest

from tests.e2e.stack import PREFIX, Mesh


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five files about animals, one below another folder, and a hidden one."""
    for name in ("otters", "owls", "whales", "bears"):
        (tmp_path / f"{name}.md").write_text(f"# {name.title()}\n\nAll about {name} and what {name} eat.\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "foxes.txt").write_text("Foxes dig dens.")
    (tmp_path / ".secret.md").write_text("hidden")
    return tmp_path


def test_changing_one_file_imports_that_file_alone(mesh: Mesh, folder: Path) -> None:
    first = mesh.ragweave("import", str(folder), "--collection", "animals").stdout
    assert "SUCCEEDED: 5 imported, 0 unchanged, 0 failed" in first
    before = {d["name"]: d for d in mesh.rest("GET", f"{PREFIX}/collections/animals/documents").body["documents"]}
    (folder / "owls.md").write_text("# Owls\n\nOwls hunt at night and swallow mice whole.\n")
    second = mesh.ragweave("import", str(folder), "--collection", "animals").stdout
    assert "SUCCEEDED: 1 imported, 4 unchanged, 0 failed" in second
    after = {d["name"]: d for d in mesh.rest("GET", f"{PREFIX}/collections/animals/documents").body["documents"]}
    assert [name for name in after if after[name] != before[name]] == ["collections/animals/documents/owls.md"]
    assert after["collections/animals/documents/owls.md"]["revision"] == 2

    shown = mesh.ragweave("search", "who swallows mice", "-c", "animals", "-k", "1").stdout
    assert "swallow mice whole" in shown
    found = json.loads(mesh.ragweave("search", "what otters eat", "-c", "animals", "--json").stdout)
    assert {hit["document"] for hit in found["hits"]} == set(after), "the older revision is gone, everything else stays"

    assert "who swallows mice" in mesh.ragweave("cache", "list", "--filter", 'collection = "animals"').stdout
    assert "0 hits, 2 misses: 0.0%" in mesh.ragweave("cache", "stats", "animals").stdout
    assert "0 made, 2 were there, 0 left out" in mesh.ragweave("cache", "warm", "animals").stdout
    assert "dropped 2 in the process, 2 in Redis, 2 questions" in mesh.ragweave("cache", "purge", "animals").stdout


def test_jobs_are_listed_and_an_ended_one_can_be_watched(mesh: Mesh, folder: Path) -> None:
    done = mesh.ragweave("import", str(folder / "bears.md"), "-c", "bears").stdout
    (job,) = re.findall(r"jobs/\w+", done)
    assert job in mesh.ragweave("jobs", "-f", 'collection = "collections/bears"').stdout
    assert "SUCCEEDED: 1 imported" in mesh.ragweave("watch", job).stdout
    told = mesh.ragweave("events", "ingestion.completed", "-c", "bears", "--after", "0", "-n", "1").stdout
    assert f"ingestion.completed  collections/bears {job} SUCCEEDED: 1/1 done" in told


def test_rows_of_a_file_become_documents(mesh: Mesh, tmp_path: Path) -> None:
    table = tmp_path / "products.csv"
    table.write_text(
        "sku;name;about\nm1;Mill;It grinds coffee finely.\nk1;Kettle;It boils water.\n;Nameless;It is lost.\n"
    )
    options = ["--rows", "--delimiter", ";", "--id-field", "sku", "--title-field", "name", "--text-field", "about"]
    done = mesh.ragweave("import", str(table), "-c", "products", *options, check=False)
    assert done.returncode == 1
    assert "2 imported, 0 unchanged, 1 failed" in done.stdout
    assert "line=4" in done.stderr
    found = json.loads(mesh.ragweave("search", "what grinds", "-c", "products", "-k", "1", "--json").stdout)
    assert [(hit["document"], hit["title"]) for hit in found["hits"]] == [("collections/products/documents/m1", "Mill")]
    table.write_text("sku,name\nk1,Kettle\n")
    assert (
        "1 imported"
        in mesh.ragweave("import", str(table), "-c", "products", "--rows", "--id-field", "sku", "--full").stdout
    )
    left = mesh.rest("GET", f"{PREFIX}/collections/products/documents").body["documents"]
    assert [each["name"].rpartition("/")[2] for each in left if each["state"] == "ACTIVE"] == ["k1"]


def test_pages_of_the_web_are_asked_for_and_what_may_not_be_is_named(mesh: Mesh) -> None:
    pages = ["http://127.0.0.1:8080/a", "http://[::1]/b"]
    done = mesh.ragweave("import", *pages, "-c", "pages", check=False)
    assert (done.returncode, "2 failed" in done.stdout) == (1, True)
    assert all(page in done.stderr for page in pages)


def test_what_failed_is_listed_replayed_and_retried(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_text("")
    (tmp_path / "bears.md").write_text("Bears eat fish.")
    failed = mesh.ragweave("import", str(tmp_path), "-c", "letters", check=False)
    assert failed.returncode == 1
    (job,) = re.findall(r"jobs/\w+", failed.stdout)
    only = f'job = "{job}"'
    listed = mesh.ragweave("dead-letters", "-f", only).stdout
    (letter,) = re.findall(r"deadLetters/[\w-]+", listed)
    assert "empty.md" in listed
    assert "1 queued again" in mesh.ragweave("replay", letter).stdout
    assert "1 failed" in mesh.ragweave("watch", job, check=False).stdout
    again = mesh.ragweave("retry", job.removeprefix("jobs/"), check=False)
    assert (again.returncode, "1 failed" in again.stdout) == (1, True)
    assert "1 queued again" in mesh.ragweave("replay", "-f", only).stdout
    assert "PARTIALLY_SUCCEEDED" in mesh.ragweave("watch", job, check=False).stdout


def test_documents_are_counted_before_they_are_purged_and_made_again_when_told(mesh: Mesh, folder: Path) -> None:
    mesh.ragweave("import", str(folder), "--collection", "pack")
    assert "SUCCEEDED: 0 made again, 5 unchanged" in mesh.ragweave("reprocess", "pack").stdout
    counted = mesh.ragweave("purge", "pack", "-f", 'mime_type = "text/plain"').stdout
    assert "1 documents match; --force deletes them" in counted
    assert "collections/pack/documents/sub.foxes.txt" in counted
    assert "SUCCEEDED: 5 deleted" in mesh.ragweave("purge", "pack", "-f", "*", "--force").stdout
    assert "0 documents match" in mesh.ragweave("purge", "pack", "-f", "*").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "x", "-c", "nowhere"], "nowhere"),
        (["search", "x", "-c", "python-reference", "--mode", "FUZZY"], "FUZZY"),
        (["search", "x", "-c", "python-reference", "-f", "titel = 1"], "titel"),
        (["import", "/no/such/folder", "-c", "a"], "/no/such/folder"),
        (["import", "https://example.com", "here.md", "-c", "a"], "either"),
        (["import", "here.md", "-c", "a", "--id-field", "sku"], "--rows"),
        (["import", "here.md", "-c", "a", "--rows"], ".jsonl"),
        (["token", "--role", "king"], "king"),
        (["watch", "nothing"], "nothing"),
        (["retry", "nothing"], "nothing"),
        (["replay", "nothing-1"], "nothing-1"),
        (["replay"], "--filter"),
        (["purge", "python-reference", "-f", "titel = 1"], "titel"),
        (["reprocess", "nowhere"], "nowhere"),
        (["dead-letters", "-f", "titel = 1"], "titel"),
        (["logs", "nobody"], "nobody"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else value,
)
def test_a_mistake_is_told_in_one_sentence(mesh: Mesh, arguments: list[str], said: str) -> None:
    done = mesh.ragweave(*arguments, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_second_up_finds_the_mesh_running_and_doctor_finds_nothing_wrong(mesh: Mesh) -> None:
    assert "ready after" in mesh.ragweave("up").stdout
    while (doctor := mesh.ragweave("doctor", "--json", check=False)).returncode:
        time.sleep(0.5)  # a process that answers late on a busy machine is told, once
    findings = [json.loads(line) for line in doctor.stdout.splitlines()]
    for said in ("generated code is what", "every process says", "the registry's database is", "the Redis store at"):
        assert [each["severity"] for each in findings if each["what"].startswith(said)] == ["OK"]
    assert "collections" in mesh.ragweave("logs", "-n", "1").stdout


def test_searches_are_measured_side_by_side_and_held_to_a_least(mesh: Mesh, folder: Path, tmp_path: Path) -> None:
    mesh.ragweave("import", str(folder), "-c", "measured")
    asked = {"otters": "what otters eat", "foxes": "who digs dens"}
    listed = mesh.rest("GET", f"{PREFIX}/collections/measured/documents").body["documents"]
    ids = {each["name"].rpartition("/")[2] for each in listed}
    documents = {name: next(id_ for id_ in ids if name in id_) for name in asked}
    samples = tmp_path / "animal-questions.jsonl"
    rows = [{"id": name, "query": text, "relevant": {documents[name]: 1}} for name, text in asked.items()]
    samples.write_text("\n".join(map(json.dumps, rows)))
    compared = ["-c", "measured", "--mode", "HYBRID", "--against", "SPARSE"]
    done = mesh.ragweave("eval", "--set", str(samples), *compared, "--min", "recall@10=1").stdout
    assert "SUCCEEDED: 2 answered, 0 failed\n" in done
    assert re.search(r"recall@10 +│ +1\.0000 │ +1\.0000 │ +\+0\.0000 │ +1\.0000", done), done
    assert re.search(r"failed +│ +0 │ +0", done), done
    assert "query by query" not in done

    # The file was kept as a set by its name, and takes its own place when it is sent again.
    whole = ["--json", "--queries", "1", "--min", "mrr@1=1"]
    by_name = mesh.ragweave("eval", "-s", "animal-questions", "-c", "measured", *whole, check=False)
    found = json.loads(by_name.stdout)
    assert len(found["queries"]) == 1
    (result,) = found["results"]
    assert (result["configuration"], result["answered"]) == ("hybrid", 2)
    reached = next(each for each in result["measures"] if each["k"] == 1)["mrr"]
    assert by_name.returncode == (0 if reached >= 1 else 1)
    missed = mesh.ragweave("eval", "-s", str(samples), "-c", "measured", "--min", "precision@100=.5", check=False)
    assert (missed.returncode, "precision@100 is 0.0100, less than 0.5" in missed.stderr) == (1, True)
    refused = mesh.ragweave("eval", "-s", str(samples), "-c", "nowhere", check=False)
    assert (refused.returncode, "nowhere" in refused.stderr) == (1, True)

    # Judgements of their own, as BEIR has them; one of them is of a document that is not there.
    queries = tmp_path / "queries.jsonl"
    queries.write_text("\n".join(json.dumps({"_id": name, "text": text}) for name, text in asked.items()))
    qrels = tmp_path / "test.tsv"
    qrels.write_text(f"query-id\tcorpus-id\tscore\notters\t{documents['otters']}\t2\notters\tbadgers\t1\n")
    judged = mesh.ragweave(
        "eval", "-s", str(queries), "--qrels", str(qrels), *compared, "--queries", "5", "--min", "recall@5=.5"
    )
    assert "1 queries of sampleQuerySets/queries" in judged.stdout
    assert re.search(r"otters +│ what otters eat +│ +0\.\d{4} │ +0\.\d{4} │ +[+-]0\.\d{4}", judged.stdout), judged
    assert "not there to be found: badgers of otters" in judged.stderr
    for name in ("animal-questions", "queries"):
        assert mesh.rest("DELETE", f"{PREFIX}/sampleQuerySets/{name}").status == 200


def test_health_shows_every_process_to_operators_and_the_state_to_all(mesh: Mesh) -> None:
    while (shown := mesh.ragweave("health", "--all", check=False)).returncode:
        time.sleep(0.5)  # as doctor
    assert shown.stdout.startswith("SERVING  version ")
    for line in ("needs database (required): SERVING", "needs redis: SERVING", "queue of jobs: 0 wait"):
        assert line in shown.stdout
    told = json.loads(mesh.ragweave("health", "--json", check=False).stdout)
    running = {each["name"]: [process["name"] for process in each["processes"]] for each in told["services"]}
    services = ("collections", "embedding", "jobs", "retrieval", "system", "worker")
    assert running == {name: [name] for name in services}
    for token in ("", None):
        answer = mesh.rest("GET", f"{PREFIX}/health", token=token)
        assert (answer.status, answer.body["services"]) == (200, [])
