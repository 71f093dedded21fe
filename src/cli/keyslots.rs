//! What is shown of keyslots. Nothing of it is secret, and nothing authenticated.

use serde_json::{Value, json};

use super::words::count;
use super::{terminal, time};
use crate::vault::{Configuration, Keyslot};

/// The names of the fields are an interface (docs/cli.md).
pub(super) fn facts(configuration: &Configuration) -> Vec<Value> {
    configuration.keyslots.iter().map(fact).collect()
}

fn fact(slot: &Keyslot) -> Value {
    let mut kdf = json!({ "algorithm": slot.kdf.name() });
    if let Some(params) = slot.kdf.params() {
        kdf["memory_kib"] = params.memory_kib.into();
        kdf["passes"] = params.passes.into();
        kdf["lanes"] = params.lanes.into();
    }
    json!({
        "id": slot.id,
        "key_id": slot.key_id,
        "kind": slot.kind,
        "label": slot.label,
        "role": slot.role,
        "created": slot.created,
        "kdf": kdf,
    })
}

/// The same facts, for people, in one line.
pub(super) fn text(slot: &Value) -> String {
    let label = match shown(&slot["label"]) {
        label if label.is_empty() => label,
        label => format!(" \"{label}\""),
    };
    let kdf = &slot["kdf"];
    let cost = match kdf["memory_kib"].is_null() {
        true => String::new(),
        false => format!(
            ", {} with {} KiB, {}, {}",
            shown(&kdf["algorithm"]),
            shown(&kdf["memory_kib"]),
            counted(&kdf["passes"], "pass", "passes"),
            counted(&kdf["lanes"], "lane", "lanes")
        ),
    };
    format!(
        "{}{label}, {}{cost}, key {}, since {}",
        shown(&slot["kind"]),
        shown(&slot["role"]),
        shown(&slot["key_id"]),
        when(&slot["created"])
    )
}

fn counted(number: &Value, one: &str, many: &str) -> String {
    number.as_u64().map_or_else(|| format!("{} {many}", shown(number)), |number| count(number, one, many))
}

/// The configuration is anyone's text: what could steer a terminal is escaped.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => terminal::shown(text),
        Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    }
}

pub(super) fn when(value: &Value) -> String {
    value.as_u64().map_or_else(|| shown(value), time::utc)
}
