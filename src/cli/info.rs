//! `sero info VAULT`: what can be seen without the passphrase. Nothing of it is authenticated.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Context;
use super::failure::{Failure, Result};
use super::opening::Opening;
use super::{terminal, time};
use crate::fuse::mountinfo;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sero info ~/papers.sero
  sero info --json ~/papers.sero | jq .mounted")]
pub(super) struct InfoArguments {
    /// The vault: a directory that `sero create` made
    vault: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &InfoArguments, context: &Context) -> Result<()> {
    let facts = facts(&Opening::find(&arguments.vault)?)?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&facts).map_err(|error| Failure::other(error.to_string()))?;
        context.print(&text);
    } else {
        context.print(&text(&facts));
    }
    Ok(())
}

/// The names of the fields are an interface (docs/cli.md).
fn facts(opening: &Opening) -> Result<Value> {
    let configuration = opening.configuration();
    let holder = opening.holder()?;
    let mountpoints: Vec<String> = mountinfo::read()
        .unwrap_or_default()
        .iter()
        .filter(|mount| mount.is_vault() && mount.source == *opening.path().as_os_str())
        .map(|mount| mount.mountpoint.display().to_string())
        .collect();
    let keyslots: Vec<Value> = configuration
        .keyslots
        .iter()
        .map(|slot| {
            json!({
                "id": slot.id,
                "kind": slot.kind,
                "label": slot.label,
                "role": slot.role,
                "created": slot.created,
                "kdf": {
                    "algorithm": slot.kdf.algorithm,
                    "memory_kib": slot.kdf.memory_kib,
                    "passes": slot.kdf.passes,
                    "lanes": slot.kdf.lanes,
                },
            })
        })
        .collect();
    Ok(json!({
        "path": opening.path().display().to_string(),
        "format": configuration.format,
        "vault_id": configuration.vault_id,
        "created": configuration.created,
        "cipher": configuration.cipher,
        "names": configuration.names,
        "hint": configuration.hint,
        "keyslots": keyslots,
        "mounted": opening.is_in_use()?,
        "mountpoints": mountpoints,
        "holder": holder.map(|holder| json!({
            "host": holder.host,
            "pid": holder.pid,
            "started": holder.started,
        })),
        "sealed": opening.is_sealed()?,
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
        let label = match shown(&slot["label"]) {
            label if label.is_empty() => label,
            label => format!(" \"{label}\""),
        };
        let kdf = &slot["kdf"];
        line(
            &format!("keyslot {}", shown(&slot["id"])),
            format!(
                "{}{label}, {}, {} with {} KiB, {} passes, {} lanes, since {}",
                shown(&slot["kind"]),
                shown(&slot["role"]),
                shown(&kdf["algorithm"]),
                shown(&kdf["memory_kib"]),
                shown(&kdf["passes"]),
                shown(&kdf["lanes"]),
                when(&slot["created"])
            ),
        );
    }
    lines.join("\n")
}

fn state(facts: &Value) -> String {
    let places: Vec<String> = facts["mountpoints"].as_array().into_iter().flatten().map(shown).collect();
    let holder = &facts["holder"];
    let mut state = match (facts["mounted"] == true, facts["sealed"] == true) {
        (true, _) => "mounted".to_owned(),
        (false, true) => "sealed".to_owned(),
        (false, false) => "not mounted, and not sealed cleanly: the next mount repairs it".to_owned(),
    };
    if !places.is_empty() {
        state.push_str(&format!(" on {}", places.join(", ")));
    }
    if !holder.is_null() {
        state.push_str(&format!(" by process {} on host {}", shown(&holder["pid"]), shown(&holder["host"])));
    }
    state
}

/// The configuration is anyone's text: what could steer a terminal is escaped.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => terminal::shown(text),
        Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    }
}

fn when(value: &Value) -> String {
    value.as_u64().map_or_else(|| shown(value), time::utc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_said_in_words() {
        let facts = |mounted: bool, sealed: bool| json!({"mounted": mounted, "sealed": sealed, "mountpoints": [], "holder": null});
        assert_eq!(state(&facts(false, true)), "sealed");
        assert!(state(&facts(false, false)).contains("the next mount repairs it"));
        let held =
            json!({"mounted": true, "sealed": false, "mountpoints": ["/mnt"], "holder": {"pid": 7, "host": "anvil"}});
        assert_eq!(state(&held), "mounted on /mnt by process 7 on host anvil");
    }
}
