//! `sero info VAULT`: what can be seen without the passphrase. Nothing of it is authenticated.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Context;
use super::failure::Result;
use super::keyslots::{self, shown, when};
use super::opening::Opening;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero info ~/papers.sero
  sero info --json ~/papers.sero | jq .mounted")]
pub(super) struct InfoArguments {
    /// The vault, or where it is mounted
    vault: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &InfoArguments, context: &Context) -> Result<()> {
    let facts = facts(&Opening::find(&arguments.vault, context)?)?;
    if arguments.json {
        return context.print_json(&facts);
    }
    context.print(&text(&facts));
    Ok(())
}

/// The names of the fields are an interface (docs/cli.md).
fn facts(opening: &Opening) -> Result<Value> {
    let configuration = opening.configuration();
    let holder = opening.holder()?;
    let (is_in_use, is_sealed) = opening.rest()?;
    // Who gave it back between the two looks has it no more.
    let holder = holder.filter(|_| is_in_use);
    let mountpoints: Vec<String> =
        opening.mounts().iter().map(|mount| mount.mountpoint.display().to_string()).collect();
    Ok(json!({
        "path": opening.path().display().to_string(),
        "format": configuration.format,
        "vault_id": configuration.vault_id,
        "created": configuration.created,
        "cipher": configuration.cipher,
        "names": configuration.names,
        "hint": configuration.hint,
        "config": opening.detached().map(|path| path.display().to_string()),
        "keyslots": keyslots::facts(configuration),
        "mounted": is_in_use,
        "mountpoints": mountpoints,
        "holder": holder.map(|holder| json!({
            "host": holder.host,
            "pid": holder.pid,
            "started": holder.started,
        })),
        "sealed": is_sealed,
    }))
}

/// The same facts, for people.
fn text(facts: &Value) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<11} {value}"));
    line("vault", shown(&facts["path"]));
    line("format", shown(&facts["format"]));
    line("id", shown(&facts["vault_id"]));
    line("created", when(&facts["created"]));
    line("cipher", format!("{}, names {}", shown(&facts["cipher"]), shown(&facts["names"])));
    if !facts["hint"].is_null() {
        line("hint", shown(&facts["hint"]));
    }
    line("state", state(facts));
    for slot in facts["keyslots"].as_array().into_iter().flatten() {
        line(&format!("keyslot {}", shown(&slot["id"])), keyslots::text(slot));
    }
    lines.join("\n")
}

fn state(facts: &Value) -> String {
    let places: Vec<String> = facts["mountpoints"].as_array().into_iter().flatten().map(shown).collect();
    let holder = &facts["holder"];
    let mut state = match (facts["mounted"] == true, facts["sealed"] == true) {
        (true, _) if places.is_empty() => "mounted".to_owned(),
        (true, _) => format!("mounted on {}", places.join(", ")),
        (false, true) => "sealed".to_owned(),
        (false, false) if places.is_empty() => "not sealed cleanly: the next mount repairs it".to_owned(),
        (false, false) => {
            let place = places.join(", ");
            format!(
                "not sealed cleanly: the process of its mount on {place} has died; `sero seal` cleans that up, and the next mount repairs it"
            )
        }
    };
    // Who takes it, or gives it back, at this moment has not signed.
    if !holder["pid"].is_null() {
        state.push_str(&format!(" by process {} on host {}", shown(&holder["pid"]), shown(&holder["host"])));
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_said_in_words() {
        let facts = |mounted: bool, sealed: bool| json!({"mounted": mounted, "sealed": sealed, "mountpoints": [], "holder": null});
        assert_eq!(state(&facts(false, true)), "sealed");
        assert!(state(&facts(false, false)).contains("the next mount repairs it"));
        let dead = json!({"mounted": false, "sealed": false, "mountpoints": ["/mnt"], "holder": null});
        assert!(state(&dead).contains("the process of its mount on /mnt has died; `sero seal`"), "{}", state(&dead));
        let held =
            json!({"mounted": true, "sealed": false, "mountpoints": ["/mnt"], "holder": {"pid": 7, "host": "anvil"}});
        assert_eq!(state(&held), "mounted on /mnt by process 7 on host anvil");
        let unsigned =
            json!({"mounted": true, "sealed": false, "mountpoints": [], "holder": {"pid": null, "host": null}});
        assert_eq!(state(&unsigned), "mounted");
    }
}
