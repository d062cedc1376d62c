//! `joulebook admin` against a fake aggregator, in-process.
#![allow(clippy::expect_used, reason = "a failed expectation is a failed test")]

use joulebook_proto::admin::admin_service_server::{AdminService, AdminServiceServer};
use joulebook_proto::admin::*;
use serde_json::Value;
use std::collections::HashMap;
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::{self, Stream, StreamExt};
use tonic::{Request, Response, Status};

/// One node, two backups of which the second is damaged; the third never answers.
struct Fake;

fn backup(number: u32) -> BackupInfo {
    BackupInfo { number, made_unix_nanos: 1_790_000_000_000_000_000, files: 7, bytes: 1_234 }
}

fn steps<T: Send + 'static>(
    steps: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Result<Response<BoxStream<T>>, Status> {
    Ok(Response::new(Box::pin(steps)))
}

#[tonic::async_trait]
impl AdminService for Fake {
    type DumpStream = BoxStream<DumpResponse>;
    type BackupStream = BoxStream<BackupResponse>;
    type VerifyStream = BoxStream<VerifyResponse>;

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let stream = StreamStatus { acked_sequence: 42, lost_records: 3, ..StreamStatus::default() };
        let node = NodeStatus { node: "gpu-1".into(), streams: vec![stream], connected: true, ..NodeStatus::default() };
        let counters = HashMap::from([("records_applied_total".to_owned(), 39)]).into_iter().collect();
        let (cluster_id, schema_version) = ("ab".repeat(16), 1);
        Ok(Response::new(GetStatusResponse {
            cluster_id,
            schema_version,
            nodes: vec![node],
            counters,
            ..GetStatusResponse::default()
        }))
    }

    async fn dump(&self, request: Request<DumpRequest>) -> Result<Response<Self::DumpStream>, Status> {
        let request = request.into_inner();
        if request.node != "gpu-1" {
            return Err(Status::not_found("no node of that name"));
        }
        let point = |unix_nanos| DumpPoint { unix_nanos, value: 7 };
        let run = DumpResponse {
            series: "energy a,b".into(),
            unit: "uJ".into(),
            stream_id: "05".into(),
            sequence: 9,
            points: vec![point(request.start_unix_nanos.unwrap_or(1)), point(request.end_unix_nanos.unwrap_or(2))],
            ..DumpResponse::default()
        };
        steps(tokio_stream::iter([Ok(run)]))
    }

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let keep = request.into_inner().keep;
        let step = |step| Ok(BackupResponse { step: Some(step) });
        let progress = Progress { done_bytes: 1, total_bytes: 2 };
        let done = backup_response::Step::Done(backup(keep.unwrap_or(9)));
        steps(tokio_stream::iter([step(backup_response::Step::Progress(progress)), step(done)]))
    }

    async fn list_backups(&self, _: Request<ListBackupsRequest>) -> Result<Response<ListBackupsResponse>, Status> {
        Ok(Response::new(ListBackupsResponse { backups: vec![backup(1), backup(2)] }))
    }

    /// Knows every cell but those of 1.5 already.
    async fn push_factors(
        &self,
        request: Request<PushFactorsRequest>,
    ) -> Result<Response<PushFactorsResponse>, Status> {
        let request = request.into_inner();
        let series = request.series.unwrap_or_default();
        let words = [&series.name, &series.quantity, &series.kind, &series.basis, &series.zone, &series.source];
        if words.map(String::as_str) != ["grid", "intensity", "average_consumption", "lifecycle", "FR", "pushed"] {
            return Err(Status::failed_precondition(format!("another series: {words:?}")));
        }
        let fresh = request.cells.iter().filter(|cell| (cell.value - 1.5).abs() < 1e-9 && cell.status == "forecast");
        let recorded = u64::try_from(fresh.count()).expect("few");
        let unchanged = u64::try_from(request.cells.len()).expect("few") - recorded;
        Ok(Response::new(PushFactorsResponse { recorded, unchanged, revision_unix_nanos: 7 }))
    }

    async fn list_factors(&self, _: Request<ListFactorsRequest>) -> Result<Response<ListFactorsResponse>, Status> {
        let series = FactorSeries { name: "grid".into(), quantity: "intensity".into(), ..FactorSeries::default() };
        let (first_unix_nanos, next_unix_nanos) = (Some(0), Some(86_400_000_000_000));
        let failure = "the source refuses: quota".to_owned();
        let series = Some(series);
        let row =
            FactorSeriesStatus { series, failure, first_unix_nanos, next_unix_nanos, ..FactorSeriesStatus::default() };
        Ok(Response::new(ListFactorsResponse { series: vec![row] }))
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let progress = verify_response::Step::Progress(Progress { done_bytes: 1, total_bytes: 2 });
        let first = Ok(VerifyResponse { step: Some(progress) });
        let damage = |file: &str| Damage { file: file.to_owned(), reason: "its checksum does not match".into() };
        let damages = match request.into_inner().backup {
            Some(2) => vec![damage("/b/000012.sst"), damage("/b/MANIFEST-000005")],
            Some(3) => return steps(tokio_stream::iter([first]).chain(tokio_stream::pending())),
            Some(4) => return steps(tokio_stream::iter([first])),
            _ => Vec::new(),
        };
        let done = verify_response::Step::Done(Findings { files: 7, bytes: 1_234, damages });
        steps(tokio_stream::iter([first, Ok(VerifyResponse { step: Some(done) })]))
    }
}

async fn tool(words: &str) -> (u8, String, String) {
    ask(&format!("admin {words}")).await
}

async fn ask(words: &str) -> (u8, String, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().add_service(AdminServiceServer::new(Fake));
    tokio::spawn(server.serve_with_incoming(incoming));
    let words = ["joulebook", "--aggregator", &url].into_iter().chain(words.split_whitespace());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = joulebook::run(words.map(Into::into).collect(), &mut out, &mut err).await;
    (code, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

#[tokio::test]
async fn the_state_of_nodes_and_the_counters_are_shown() {
    let (code, out, _) = tool("status").await;
    assert_eq!(code, 0);
    for part in [&*"ab".repeat(16), "gpu-1", "yes", "42", "records_applied_total 39"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (_, out, _) = tool("status -o json").await;
    let value: Value = serde_json::from_str(&out).expect("json");
    assert_eq!(value["nodes"][0]["streams"][0]["lost_records"], 3);
}

#[tokio::test]
async fn a_backup_is_told_when_it_is_finished_and_all_of_them_are_listed() {
    let (code, out, _) = tool("backup -o json").await;
    let made: Value = serde_json::from_str(&out).expect("json");
    assert_eq!((code, &made["number"]), (0, &Value::from(9)));
    assert!(tool("backup --keep 5").await.1.contains("2026-09-21"));
    assert_eq!(tool("backup --keep 0").await.0, 64);
    let (_, out, _) = tool("backups").await;
    assert_eq!(out.matches("1234").count(), 2, "{out}");
}

#[tokio::test]
async fn damage_exits_74_and_names_every_file() {
    let (code, out, _) = tool("verify").await;
    assert_eq!((code, out.as_str()), (0, "7 files, 1234 bytes: nothing is damaged\n"));
    let (code, out, err) = tool("verify --backup 2").await;
    assert_eq!((code, out.as_str()), (74, ""));
    assert!(err.contains("000012.sst") && err.contains("MANIFEST-000005") && err.contains("2 damaged"), "{err}");
}

#[tokio::test]
async fn an_aggregator_that_falls_silent_or_ends_early_is_unavailable() {
    let (code, _, err) = tool("verify --backup 3 --timeout 100ms").await;
    assert_eq!(code, 69, "{err}");
    let (code, _, err) = tool("verify --backup 4").await;
    assert!(code == 69 && err.contains("before the end"), "{code} {err}");
}

#[tokio::test]
async fn stored_rows_are_printed_as_csv_over_the_whole_time_or_a_part() {
    let (code, out, _) = tool("dump --node gpu-1").await;
    let expected =
        "series,unit,stream,sequence,unix_nanos,value\r\n\"energy a,b\",uJ,05,9,1,7\r\n\"energy a,b\",uJ,05,9,2,7\r\n";
    assert_eq!((code, out.as_str()), (0, expected));
    let (_, out, _) = tool("dump --node gpu-1 --from 1970-01-02 --to 1970-01-03").await;
    assert!(out.contains(",86400000000000,7") && out.contains(",172800000000000,7"), "{out}");
    assert_eq!(tool("dump --node gpu-1 --to 1970-01-03").await.0, 64);
    assert_eq!(tool("dump --node other").await.0, 1);
}

#[tokio::test]
async fn a_file_of_factors_is_pushed_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("grid.csv");
    let words =
        format!("factors push --series grid --kind average-consumption --basis lifecycle --zone FR {}", path.display());
    let hour = |hour: u32, value: &str, status: &str| {
        format!("2026-11-24T{hour:02}:00:00Z,2026-11-24T{:02}:00:00Z,{value},{status}\n", hour + 1)
    };
    let put = |rows: &[String]| {
        std::fs::write(&path, format!("start,end,value,status\n{}", rows.concat())).expect("write");
    };
    put(&[hour(0, "1.5", "forecast"), hour(1, "2", "measured")]);
    let (code, out, err) = ask(&words).await;
    assert_eq!((code, out.as_str()), (0, "1 cells recorded, 1 known already\n"), "{err}");
    for (row, why) in [(hour(2, "much", "measured"), "line 3: `much` is no number"), (hour(23, "1", ""), "T24:00:00Z")]
    {
        put(&[hour(0, "1.5", "forecast"), row]);
        let (code, out, err) = ask(&words).await;
        assert_eq!((code, out.as_str()), (64, ""), "{err}");
        assert!(err.contains(why) && err.contains("nothing was sent"), "{err}");
    }
    std::fs::write(&path, "time,value\n").expect("write");
    let (code, _, err) = ask(&words).await;
    assert!(code == 64 && err.contains("no column `start`"), "{err}");
    assert_eq!(ask("factors push --series grid grid.csv").await.0, 64, "an intensity has a kind");
}

#[tokio::test]
async fn a_source_that_fails_says_so_in_the_list() {
    let (code, out, _) = ask("factors list").await;
    assert_eq!(code, 0);
    assert!(out.contains("grid: the source refuses: quota; asked again 1970-01-02 00:00:00Z"), "{out}");
}
