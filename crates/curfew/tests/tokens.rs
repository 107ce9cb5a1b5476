//! Where the command line takes its token from, and from where and to whom it never goes.
#![cfg(test)]

mod support;

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;
use support::{Ran, Scripted, curfew, secret};

#[test]
fn a_configuration_that_names_no_server_is_said_to_be_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("curfew.yaml");
    let config = config.to_str().unwrap();
    let list = || Ran::of(&mut curfew(&["enforcers", "list", "-c", config]));
    let told = |ran: &Ran| {
        ran.err
            .contains(&format!("told from the configuration {config}: "))
    };
    let none = list();
    let says = told(&none) && none.err.contains("No such file");
    assert!(none.code == 1 && says, "{}", none.err);
    std::fs::write(config, "data_dirr: data\n").unwrap();
    let wrong = list();
    let says = told(&wrong) && wrong.err.contains("did you mean `data_dir`?");
    assert!(wrong.code == 1 && says, "{}", wrong.err);
    let number = Ran::of(&mut curfew(&["sessions", "list", "--limit", "abc"]));
    let says = number
        .err
        .contains("write a whole number from 1 to 1000000");
    assert!(number.code == 1 && says, "{}", number.err);
}

#[test]
fn tokens_come_from_where_nobody_else_reads() {
    let server = Scripted::start();
    server.json("GET /v1/enforcers", 200, &json!({"enforcers": []}));
    let folder = tempfile::tempdir().unwrap();
    let file = secret(&folder.path().join("token"), "secret-1\n");
    let url = format!("http://{}", server.address);
    let list = |more: &[&str]| {
        Ran::of(&mut curfew(
            &[&["enforcers", "list", "--server", &url], more].concat(),
        ))
    };
    let path = file.to_str().unwrap();
    assert_eq!(list(&["--token-file", path]).code, 0);
    let presented = server
        .asked()
        .last()
        .unwrap()
        .headers
        .contains(&"authorization: Bearer secret-1".to_owned());
    assert!(presented);
    for (mode, text, part) in [
        (0o640, "secret", "run `chmod 600"),
        (0o600, "two words", "holds no token"),
        (0o600, "", "holds no token"),
        (0o600, &"x".repeat(5_000), "longer than 4096"),
    ] {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let ran = list(&["--token-file", path]);
        assert_eq!(ran.code, 1);
        assert!(
            ran.err.contains(part) && ran.err.contains(path),
            "{}",
            ran.err
        );
    }
    let none = folder.path().join("none.yaml");
    let ran = list(&["-c", none.to_str().unwrap()]);
    assert!(
        ran.err.contains("there is no token for") && ran.err.contains("--token-file"),
        "{}",
        ran.err
    );
    // Others' servers never get this machine's token.
    let config = folder.path().join("curfew.yaml");
    let text = "data_dir: .\npolicy: {path: p}\ngateway: {services: [{name: a, listen: '127.0.0.1:0', upstream: 'a:1'}]}\n";
    std::fs::write(&config, text).unwrap();
    secret(&folder.path().join("admin.token"), "local-1");
    let config = config.to_str().unwrap();
    assert_eq!(list(&["-c", config]).code, 0);
    let elsewhere = [
        "enforcers",
        "list",
        "-c",
        config,
        "--server",
        "https://192.0.2.1:1",
    ];
    let ran = Ran::of(&mut curfew(&elsewhere));
    assert!(
        ran.err
            .contains("there is no token for https://192.0.2.1:1"),
        "{}",
        ran.err
    );
}
