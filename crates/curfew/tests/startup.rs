//! What `run` does not start with, and that `run --check` says it beforehand.
#![cfg(test)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(control: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "data_dir: data\ncontrol: {{listen: '127.0.0.1:0'{control}}}\npolicy: {{path: p.yaml}}\n\
             gateway: {{services: [{{name: s, listen: '127.0.0.1:0', upstream: '127.0.0.1:1'}}]}}\n"
        );
        let policy = "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: s}\n\
                      spec: {sensitivity: low, access: open, members: [{service: s}]}\n";
        fs::write(folder.path().join("curfew.yaml"), config).unwrap();
        fs::write(folder.path().join("p.yaml"), policy).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_curfew"));
        command.arg("run").args(more).args(["-c", "curfew.yaml"]);
        command.current_dir(self.folder.path());
        command
    }

    /// How `run --check` ends, and what it says.
    fn check(&self) -> (Option<i32>, String) {
        let output = self.run(&["--check"]).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    }

    /// How `run` ends that does not start, and what it says.
    fn refused(&self) -> (Option<i32>, String) {
        let output = self.run(&[]).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    /// What `run` logs until it listens everywhere; then it is killed.
    fn begun(&self) -> Vec<String> {
        let mut child = self
            .run(&["--log", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        for line in lines.map_while(Result::ok) {
            said.push(line);
            if said.last().unwrap().contains("\"control\"") {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(said.last().unwrap().contains("listening"), "{said:?}");
        said
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn with_mode(path: &Path, mode: u32) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn check_reads_certificate_and_key_as_run_does() {
    let place = Place::new(", tls: {certificate: c.pem, key: k.pem}");
    let (code, text) = place.check();
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("curfew.yaml:2:39: error: the certificate "),
        "{text}"
    );
    assert!(text.contains("c.pem"), "{text}");
    let make = || rcgen::generate_simple_self_signed(vec!["curfew.test".to_owned()]).unwrap();
    let (own, other) = (make(), make());
    fs::write(place.path("c.pem"), own.cert.pem()).unwrap();
    fs::write(place.path("k.pem"), other.signing_key.serialize_pem()).unwrap();
    let (code, text) = place.check();
    assert_eq!(code, Some(3), "{text}");
    assert!(place.refused().1.contains("cannot be used"));
    fs::write(place.path("k.pem"), own.signing_key.serialize_pem()).unwrap();
    let (code, text) = place.check();
    assert_eq!(code, Some(0), "{text}");
    let found = place
        .run(&["--check", "--output", "json"])
        .output()
        .unwrap();
    let found: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(
        (&found["usable"], &found["error"]),
        (&true.into(), &serde_json::Value::Null)
    );
    place.begun();
}

#[test]
fn a_data_directory_that_others_may_write_is_refused() {
    for open in [0o777, 0o770, 0o702] {
        let place = Place::new("");
        with_mode(&place.path("data"), open);
        let (code, text) = place.refused();
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("chmod 700 data"), "{text}");
        let (code, text) = place.check();
        assert_eq!(code, Some(3), "{text}");
        assert!(
            text.contains("curfew.yaml:1:11: error: others may write"),
            "{text}"
        );
        assert_eq!(mode(&place.path("data")), open);
        assert_eq!(fs::read_dir(place.path("data")).unwrap().count(), 0);
    }
}

#[test]
fn a_data_directory_that_is_a_file_is_said_to_be_none() {
    let place = Place::new("");
    fs::write(place.path("data"), "").unwrap();
    let (code, text) = place.refused();
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("data is not usable: not a directory"),
        "{text}"
    );
    let (code, text) = place.check();
    assert!(
        code == Some(3) && text.contains("not a directory"),
        "{text}"
    );
}

#[test]
fn a_data_directory_of_another_user_is_refused() {
    let place = Place::new("");
    let data = place.path("data");
    with_mode(&data, 0o700);
    if let Err(error) = std::os::unix::fs::chown(&data, Some(65_534), None) {
        eprintln!("NOT TESTED: only root can give a directory away: {error}");
        return;
    }
    let (code, text) = place.refused();
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("belongs to the user with the number 65534"),
        "{text}"
    );
    let (code, text) = place.check();
    assert_eq!(code, Some(3), "{text}");
    assert_eq!(fs::read_dir(data).unwrap().count(), 0);
}

#[test]
fn an_upstream_that_leads_back_is_refused() {
    let place = Place::new("");
    let config = fs::read_to_string(place.path("curfew.yaml")).unwrap();
    let circular = config.replace(
        "{name: s, listen: '127.0.0.1:0'",
        "{name: s, listen: '0.0.0.0:1'",
    );
    fs::write(place.path("curfew.yaml"), circular).unwrap();
    let (code, text) = place.check();
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("leads back to the service"), "{text}");
}

#[test]
fn a_data_directory_that_others_may_look_into_is_made_private() {
    let place = Place::new("");
    with_mode(&place.path("data"), 0o755);
    let said = place.begun();
    assert!(
        said.iter().any(|line| line.contains("it is 0700 now")),
        "{said:?}"
    );
    assert_eq!(mode(&place.path("data")), 0o700);
    let said = place.begun();
    assert!(!said.iter().any(|line| line.contains("0700")), "{said:?}");
}

#[test]
fn a_state_that_was_begun_and_never_written_keeps_nothing_from_starting() {
    let place = Place::new("");
    with_mode(&place.path("data"), 0o700);
    fs::write(place.path("data/state.db"), "").unwrap();
    let (code, text) = place.check();
    assert_eq!(code, Some(0), "{text}");
    place.begun();
}
