#!/usr/bin/env python3
"""An independent reader of a sealed sero vault, written from docs/format.md.

    sero_reader.py [OPTION FILE]... VAULT < PASSPHRASE      one newline behind the passphrase is not part of it

What opens the vault besides a passphrase (an empty one counts as none): --keyfile, --recovery, --command, --environment, each
with a FILE: any, the text of a recovery key, a key in base64. --config FILE is a configuration that lies apart.

Prints a manifest of the whole tree as JSON, sorted by path. It decrypts everything, and checks every rule of "A reader must
reject" that concerns a sealed vault; an entry that breaks one has its name in the field "error". In paths and targets, bytes
that are not UTF-8 stand as \\xHH, and a backslash is doubled.

Exit codes: 0 all is well, 1 some entries have errors, 2 usage or a missing module, 3 the vault was refused (the rule on
standard error).

Needs Python 3.9 and `cryptography`; where that has no Argon2id (before 44), also `argon2-cffi`.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import stat
import sys

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
except ImportError as error:
    print(f"sero_reader.py needs the Python module cryptography: {error}", file=sys.stderr)
    sys.exit(2)

BLOCK = 4096
HEADER = 128
BLOB_MAX = 4 * BLOCK - HEADER
ROOT_PAGES = 119
HEIGHTS = 5
HOLE = bytes(32)


class Refused(Exception):
    """Breaks the rule of this name."""

    def __init__(self, rule, detail=""):
        super().__init__(f"{rule}: {detail}" if detail else rule)
        self.rule = rule


# --- primitives ---


def extract(salt, key):
    return hmac.new(salt, key, hashlib.sha256).digest()


def expand(prk, info, length=32):
    return HKDFExpand(algorithm=hashes.SHA256(), length=length, info=info).derive(prk)


def open_detached(key, nonce, tag, ciphertext, associated, rule):
    try:
        return AESGCM(key).decrypt(nonce, ciphertext + tag, associated)
    except InvalidTag:
        raise Refused(rule) from None


def open_message(key, message, associated, rule):
    if len(message) < 28:
        raise Refused(rule, "shorter than a nonce and a tag")
    return open_detached(key, message[:12], message[12:28], message[28:], associated, rule)


def argon2id(passphrase, salt, memory_kib, passes, lanes):
    try:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
    except ImportError:
        try:
            from argon2.low_level import Type, hash_secret_raw
        except ImportError:
            print("sero_reader.py needs Argon2id: cryptography 44, or the module argon2-cffi", file=sys.stderr)
            sys.exit(2)
        return hash_secret_raw(passphrase, salt, passes, memory_kib, lanes, 32, Type.ID, version=0x13)
    kdf = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    return kdf.derive(passphrase)


def base64url(text, rule):
    """Canonical, without padding."""
    try:
        raw = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Refused(rule) from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != text:
        raise Refused(rule, "not canonical")
    return raw


def integer(raw):
    return int.from_bytes(raw, "little")


def le(value, width):
    return value.to_bytes(width, "little")


# --- sero.json ---

FIELDS = {
    "": {"format", "vault_id", "created", "cipher", "names", "project_keys", "active_key", "keyslots", "authenticator"},
    "project_keys": {"version", "key_id", "wrapped"},
    "keyslots": {"id", "key_id", "kind", "label", "role", "created", "kdf", "wrapped"},
    "rotation": {"from", "keep_old", "started"},
    "argon2id": {"algorithm", "memory_kib", "passes", "lanes", "salt"},
    "hkdf-sha256": {"algorithm", "salt"},
}

# What each kind of keyslot takes.
KINDS = {
    "passphrase": ("passphrase",),
    "passphrase-keyfile": ("passphrase", "keyfile"),
    "keyfile": ("keyfile",),
    "recovery": ("recovery",),
    "command": ("command",),
    "environment": ("environment",),
}


def need(holds, rule, detail=""):
    if not holds:
        raise Refused(rule, detail)


def number(value, bits):
    whole = isinstance(value, int) and not isinstance(value, bool)
    need(whole and 0 <= value < 1 << bits, "configuration-wrong-type", repr(value))
    return value


def text(value, limit=None):
    need(isinstance(value, str), "configuration-wrong-type", repr(value))
    if limit is not None:
        need(len(value.encode()) <= limit, "configuration-text-too-long")
        control = any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in value)
        need(not control, "configuration-control-character")
    return value


def hexadecimal(value, length):
    digits = text(value)
    good = len(digits) == 2 * length and all(c in "0123456789abcdef" for c in digits)
    need(good, "configuration-bad-hex")
    return bytes.fromhex(digits)


def base64_bytes(value, length):
    try:
        raw = base64.b64decode(text(value), validate=True)
    except (binascii.Error, ValueError):
        raise Refused("configuration-bad-base64") from None
    need(len(raw) == length and base64.b64encode(raw).decode() == value, "configuration-bad-base64")
    return raw


def record(value, fields, optional=()):
    need(isinstance(value, dict), "configuration-wrong-type")
    for name in value:
        need(name in fields or name in optional, "configuration-unknown-field", name)
    for name in fields:
        need(name in value, "configuration-missing-field", name)
    return value


def without_duplicates(pairs):
    value = dict(pairs)
    need(len(value) == len(pairs), "configuration-duplicate-field")
    return value


def no_constant(name):
    raise Refused("configuration-not-json", name)


class Configuration:
    """Parsed, every rule checked that needs no key."""

    def __init__(self, raw):
        need(len(raw) <= 1 << 20, "configuration-too-large")
        try:
            document = json.loads(raw.decode("utf-8"), object_pairs_hook=without_duplicates, parse_constant=no_constant)
        except (ValueError, RecursionError):
            raise Refused("configuration-not-json") from None
        need(isinstance(document, dict), "configuration-not-json")
        need("format" in document, "configuration-missing-field", "format")
        form = number(document["format"], 64)
        need(form <= 1, "configuration-newer-format", str(form))
        need(form == 1, "configuration-format-zero")
        record(document, FIELDS[""], ("hint", "rotation"))

        self.vault_id = hexadecimal(document["vault_id"], 16)
        self.active_key = number(document["active_key"], 32)
        self.authenticator = base64_bytes(document["authenticator"], 32)
        created = number(document["created"], 64)
        for field, only in (("cipher", "AES-256-GCM"), ("names", "AES-256-SIV")):
            need(text(document[field]) == only, "configuration-unknown-cipher", document[field])

        canonical = [le(1, 4), self.vault_id, le(created, 8), self.text("AES-256-GCM"), self.text("AES-256-SIV")]
        canonical += self.parse_project_keys(document["project_keys"])
        canonical += [le(self.active_key, 4)]
        canonical += self.parse_keyslots(document["keyslots"])
        hint = document.get("hint")
        canonical.append(b"\0" if hint is None else b"\1" + self.text(text(hint, 1024)))
        self.older_key = None
        if document.get("rotation") is not None:
            canonical.append(self.parse_rotation(document["rotation"]))
        self.canonical = b"".join(canonical)

    def parse_rotation(self, value):
        rotation = record(value, FIELDS["rotation"])
        version, keep = number(rotation["from"], 32), rotation["keep_old"]
        need(version in self.project_keys and version != self.active_key, "configuration-rotation")
        need(isinstance(keep, bool), "configuration-wrong-type", repr(keep))
        self.older_key = version
        return le(version, 4) + (b"\1" if keep else b"\0") + le(number(rotation["started"], 64), 8)

    @staticmethod
    def text(value):
        return le(len(value.encode()), 4) + value.encode()

    def parse_project_keys(self, listed):
        need(isinstance(listed, list), "configuration-wrong-type")
        need(1 <= len(listed) <= 64, "configuration-no-project-key")
        self.project_keys = {}
        yield le(len(listed), 4)
        for key in listed:
            record(key, FIELDS["project_keys"])
            version, wrapped = number(key["version"], 32), base64_bytes(key["wrapped"], 60)
            need(version and version not in self.project_keys, "configuration-duplicate-key-version")
            self.project_keys[version] = wrapped
            yield le(version, 4) + hexadecimal(key["key_id"], 8) + wrapped
        need(self.active_key in self.project_keys, "configuration-active-key-unknown")

    def parse_keyslots(self, listed):
        need(isinstance(listed, list), "configuration-wrong-type")
        need(1 <= len(listed) <= 64, "configuration-no-keyslot")
        self.keyslots = {}
        yield le(len(listed), 4)
        for slot in listed:
            record(slot, FIELDS["keyslots"])
            kind = text(slot["kind"])
            need(kind in KINDS, "configuration-unknown-cipher", kind)
            need(isinstance(slot["kdf"], dict), "configuration-wrong-type")
            algorithm = text(slot["kdf"].get("algorithm", ""))
            need(algorithm in ("argon2id", "hkdf-sha256"), "configuration-unknown-cipher", algorithm)
            kdf = record(slot["kdf"], FIELDS[algorithm])
            need(("passphrase" in KINDS[kind]) == (algorithm == "argon2id"), "configuration-kdf-of-another-kind", kind)
            identity = number(slot["id"], 32)
            need(identity not in self.keyslots, "configuration-duplicate-keyslot")
            costs = None
            if algorithm == "argon2id":
                costs = memory, passes, lanes = [number(kdf[field], 32) for field in ("memory_kib", "passes", "lanes")]
                bounded = 1 <= lanes <= 64 and 1 <= passes <= 1000 and 8 * lanes <= memory <= 4194304
                need(bounded, "configuration-kdf-out-of-bounds")
            salt, wrapped = base64_bytes(kdf["salt"], 32), base64_bytes(slot["wrapped"], 60)
            self.keyslots[identity] = (kind, salt, costs, wrapped)
            yield le(identity, 4) + hexadecimal(slot["key_id"], 8) + self.text(kind)
            yield self.text(text(slot["label"], 256)) + self.text(text(slot["role"], 256))
            yield le(number(slot["created"], 64), 8) + self.text(algorithm)
            yield b"".join(le(cost, 4) for cost in costs or []) + salt + wrapped

    def project_keys_by_use(self, secrets):
        root_key = self.root_key(secrets)
        opened = {
            version: open_message(root_key, wrapped, self.vault_id + le(version, 4), "project-key-does-not-open")
            for version, wrapped in self.project_keys.items()
        }
        # During a rotation the older one, too: what does not open with the first is tried with the second.
        return [opened[version] for version in (self.active_key, self.older_key) if version is not None]

    def root_key(self, secrets):
        for identity, (kind, salt, costs, wrapped) in self.keyslots.items():
            if not all(needed in secrets for needed in KINDS[kind]):
                continue
            try:
                associated = self.vault_id + le(identity, 4) + kind.encode()
                return open_message(kek(kind, secrets, salt, costs), wrapped, associated, "keyslot")
            except Refused:
                continue
        raise Refused("keyslot-does-not-open", "wrong secret, or damage")


class Keys:
    """What one version of the project key gives."""

    def __init__(self, project_key, vault_id):
        self.project_key = project_key
        prk = extract(vault_id, project_key)
        self.configuration = expand(prk, b"sero/v1/configuration")
        self.names = AESSIV(expand(prk, b"sero/v1/names", 64))
        self.iv = expand(prk, b"sero/v1/directory-iv")
        self.symlink = expand(prk, b"sero/v1/symlink")
        self.xattr = expand(prk, b"sero/v1/xattr")
        self.state = expand(prk, b"sero/v1/state")


def first_that_opens(keys, attempt):
    """What the attempt gives with the first key that it succeeds with."""
    for key in keys[:-1]:
        try:
            return attempt(key)
        except Refused:
            pass
    return attempt(keys[-1])


def kek(kind, secrets, salt, costs):
    stretched = argon2id(secrets["passphrase"], salt, *costs) if costs else b""
    if kind == "passphrase":
        return stretched
    keys = b"".join(secrets[needed] for needed in KINDS[kind] if needed != "passphrase")
    return expand(extract(salt, stretched + keys), b"sero/v1/keyslot/" + kind.encode())


def recovery_key(typed):
    """32 bytes of four lines, each with a checksum."""
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    digits = "".join(typed.decode("ascii", "replace").upper().replace("-", "").split())
    digits = digits.replace("O", "0").replace("I", "1").replace("L", "1")
    need(len(digits) == 64 and all(digit in alphabet for digit in digits), "recovery-key-mistyped")
    key = b""
    for line in range(4):
        value = 0
        for digit in digits[16 * line : 16 * line + 16]:
            value = value * 32 + alphabet.index(digit)
        part, check = value.to_bytes(10, "big")[:8], value.to_bytes(10, "big")[8:]
        expected = hashlib.sha256(b"sero/v1/recovery" + le(line + 1, 1) + part).digest()[:2]
        need(check == expected, "recovery-key-mistyped", f"line {line + 1}")
        key += part
    return key


# --- where pages and nodes are ---


def blocks_of(height):
    return 1 if height == 0 else 1 + 128 * blocks_of(height - 1)


def first_page(height):
    return ROOT_PAGES + sum(128**h for h in range(1, height))


def top_block(height):
    return 1 + ROOT_PAGES + sum(blocks_of(h) for h in range(1, height))


SIZE_MAX = first_page(HEIGHTS + 1) * BLOCK


def page_block(page):
    if page < ROOT_PAGES:
        return 1 + page
    height = max(h for h in range(1, HEIGHTS + 1) if first_page(h) <= page)
    block, rest = top_block(height), page - first_page(height)
    for below in reversed(range(height)):
        slot, rest = divmod(rest, 128**below)
        block += 1 + slot * blocks_of(below)
    return block


def home_length(size):
    if size <= BLOB_MAX:
        return HEADER + size
    last = (size - 1) // BLOCK
    return page_block(last) * BLOCK + (size - last * BLOCK)


# --- files ---


class Home:
    """One regular file's content."""

    def __init__(self, vault, path):
        self.vault = vault
        with open(path, "rb") as file:
            self.raw = file.read()
        need(len(self.raw) >= HEADER, "file-short")
        self.prks = [extract(self.raw[:32], keys.project_key) for keys in vault.keys]
        self.page_keys = {}
        plain = first_that_opens(self.prks, self.header)
        kind, self.size = plain[0], integer(plain[8:16])
        need(kind in (1, 2), "file-header-kind")
        need(plain[1:4] == bytes(3) and plain[64:68] == bytes(4), "file-header-reserved")
        need(self.size <= SIZE_MAX, "file-header-size")
        need((kind == 1) == (self.size <= BLOB_MAX), "file-kind-of-another-size")
        length = home_length(self.size)
        need(len(self.raw) >= length, "file-cut")
        need(len(self.raw) <= length, "file-extended")
        self.body = (plain[32:44], plain[44:60], integer(plain[4:8]))

    def header(self, prk):
        header_key = expand(prk, b"sero/v1/file/header")
        return open_message(header_key, self.raw[32:HEADER], b"sero/v1/header", "file-header-edited")

    def open(self, entry, kind, block, sealed, rule):
        nonce, tag, session = entry
        associated = bytes([kind]) + le(block, 8)
        # Each page and node by itself is under either version.
        open_with = lambda prk: open_detached(self.page_key(prk, session), nonce, tag, sealed, associated, rule)
        return first_that_opens(self.prks, open_with)

    def page_key(self, prk, session):
        if (prk, session) not in self.page_keys:
            self.page_keys[prk, session] = expand(prk, b"sero/v1/file/page" + le(session, 4))
        return self.page_keys[prk, session]

    def content(self):
        """The bytes, and the ranges that are holes."""
        if self.size <= BLOB_MAX:
            return self.open(self.body, 3, 0, self.raw[HEADER:], "file-blob-edited"), []
        root = self.open(self.body, 2, 0, self.raw[HEADER:BLOCK], "file-root-edited")
        pages = {}
        for index, entry in self.entries(root):
            if index < ROOT_PAGES:
                pages[index] = self.page(index, index + 1, entry)
            else:
                height = index - ROOT_PAGES + 1
                self.subtree(pages, height, top_block(height), first_page(height), entry)
        return self.joined(pages)

    @staticmethod
    def entries(node):
        for index in range(len(node) // 32):
            raw = node[32 * index : 32 * index + 32]
            if raw != HOLE:
                yield index, (raw[:12], raw[12:28], integer(raw[28:]))

    def subtree(self, pages, height, block, first, entry):
        if first * BLOCK >= self.size:
            return
        node = self.open(entry, 2, block, self.raw[block * BLOCK : (block + 1) * BLOCK], "file-node-edited")
        for index, below in self.entries(node):
            at = block + 1 + index * blocks_of(height - 1)
            if height == 1:
                pages[first + index] = self.page(first + index, at, below)
            else:
                self.subtree(pages, height - 1, at, first + index * 128 ** (height - 1), below)

    def page(self, index, block, entry):
        length = min(BLOCK, self.size - index * BLOCK)
        if length <= 0:
            return b""
        return self.open(entry, 1, block, self.raw[block * BLOCK : block * BLOCK + length], "file-page-edited")

    def joined(self, pages):
        content, holes = bytearray(self.size), []
        for page in range((self.size + BLOCK - 1) // BLOCK):
            start, end = page * BLOCK, min((page + 1) * BLOCK, self.size)
            if page in pages:
                content[start:end] = pages[page]
            elif holes and holes[-1][1] == start:
                holes[-1][1] = end
            else:
                holes.append([start, end])
        return bytes(content), holes


# --- the tree ---


def shown(raw):
    return raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


class Vault:
    def __init__(self, path, secrets, config):
        self.path = path
        with open(config or os.path.join(path, b"sero.json"), "rb") as file:
            configuration = Configuration(file.read((1 << 20) + 1))
        self.keys = [Keys(key, configuration.vault_id) for key in configuration.project_keys_by_use(secrets)]
        self.is_rotating = len(self.keys) > 1
        expected = hmac.new(self.keys[0].configuration, configuration.canonical, hashlib.sha256).digest()
        need(hmac.compare_digest(expected, configuration.authenticator), "configuration-edited")
        private = os.path.join(path, b"private")
        for segment in (b"journal.0", b"journal.1"):
            need(not os.path.lexists(os.path.join(private, segment)), "not-sealed", "mount the vault and seal it first")
        if os.path.lexists(os.path.join(private, b"state")):
            with open(os.path.join(private, b"state"), "rb") as file:
                sealed = file.read()
            state = self.opened(lambda keys: open_message(keys.state, sealed, b"sero/v1/state", "state-edited"))
            need(state and len(state) == 1 + 32 * state[0], "state-edited")
        self.manifest = []

    def opened(self, attempt):
        return first_that_opens(self.keys, attempt)

    def walk(self):
        self.directory(os.path.join(self.path, b"tree"), b"")
        self.manifest.sort(key=lambda entry: entry["path"])
        return self.manifest

    def directory(self, place, plain):
        """Adds what is in the directory."""
        entries = sorted(os.listdir(place))
        sealed = [entry for entry in entries if not self.is_ignored(entry)]
        try:
            records = self.directory_ivs(place, sealed)
            if records is None:
                return
        except Refused as refused:
            self.manifest.append({"path": shown(plain) or "/", "type": "directory", "error": refused.rule})
            return
        opened = 0
        bad = []
        for entry in sealed:
            try:
                name = self.name(place, entry, records)
            except Refused as refused:
                bad.append({"path": f"{shown(plain)}/[{shown(entry)}]", "type": "unknown", "error": refused.rule})
                continue
            opened += 1
            self.inode(os.path.join(place, entry), plain + b"/" + name)
        if bad and not opened:
            bad = [{"path": shown(plain) or "/", "type": "directory", "error": "directory-iv-of-another-directory"}]
        self.manifest += bad

    @staticmethod
    def is_ignored(entry):
        if entry == b"=iv" or entry.startswith((b".nfs", b".fuse_hidden")):
            return True
        if len(entry) != 46 or not (entry.startswith(b"=") and entry.endswith(b".n")):
            return False
        try:
            return bool(base64url(entry[1:-2], "name-unknown-special"))
        except Refused:
            return False

    def directory_ivs(self, place, sealed):
        """Keys and IV of each record: one, or two while the directory's names move from one to the other."""
        path = os.path.join(place, b"=iv")
        if not os.path.lexists(path):
            need(not sealed, "directory-iv-missing")
            return None
        need(os.path.islink(path), "directory-iv-not-a-link")
        target = os.readlink(path)
        if len(target) > 43 and target[43:44] == b".":
            need(self.is_rotating, "directory-iv-two-records")
            parts = (target[:43], target[44:])
            return [self.directory_iv(keys, part) for keys, part in zip(self.keys, parts)]
        return [self.opened(lambda keys: self.directory_iv(keys, target))]

    @staticmethod
    def directory_iv(keys, target):
        need(len(target) == 43, "directory-iv-syntax")
        raw = base64url(target, "directory-iv-syntax")
        tag = hmac.new(keys.iv, raw[:16], hashlib.sha256).digest()[:16]
        need(hmac.compare_digest(tag, raw[16:]), "directory-iv-edited")
        return keys, raw[:16]

    @staticmethod
    def name_under(record, sealed):
        keys, iv = record
        try:
            return keys.names.decrypt(sealed, [iv])
        except InvalidTag:
            raise Refused("name-edited") from None

    def name(self, place, entry, records):
        long = entry.startswith(b"=")
        sealed_text = entry
        if long:
            need(len(entry) == 44, "name-unknown-special")
            base64url(entry[1:], "name-unknown-special")
            sidecar = os.path.join(place, entry + b".n")
            need(os.path.lexists(sidecar), "name-sidecar-missing")
            need(os.path.islink(sidecar), "name-sidecar-not-a-link")
            sealed_text = os.readlink(sidecar)
        sealed = base64url(sealed_text, "name-alphabet")
        need(32 <= len(sealed) <= 272 and len(sealed) % 16 == 0, "name-length")
        if long:
            digest = base64.urlsafe_b64encode(hashlib.sha256(sealed).digest()).rstrip(b"=")
            need(entry == b"=" + digest, "name-sidecar-of-another-name")
        padded = first_that_opens(records, lambda record: self.name_under(record, sealed))
        name = padded.rstrip(b"\0")
        need(name and len(padded) - len(name) < 16, "name-padding")
        good = len(name) <= 255 and name not in (b".", b"..") and b"/" not in name and b"\0" not in name
        need(good, "name-not-a-name")
        need((len(padded) > 160) == long, "name-wrong-form")
        return name

    def inode(self, place, plain):
        about = os.lstat(place)
        kinds = {
            stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
            stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device",
        }  # fmt: skip
        kind = kinds[stat.S_IFMT(about.st_mode)]
        entry = {"path": shown(plain), "type": kind}
        if kind != "symlink":
            entry["mode"] = f"{stat.S_IMODE(about.st_mode):04o}"
        if kind != "directory":
            entry["links"] = about.st_nlink
        self.manifest.append(entry)
        try:
            xattrs = self.xattrs(place, kind)
            if xattrs:
                entry["xattrs"] = xattrs
            if kind == "file":
                content, holes = Home(self, place).content()
                entry["size"] = len(content)
                entry["sha256"] = hashlib.sha256(content).hexdigest()
                entry["mtime"] = int(about.st_mtime_ns // 10**9)
                if holes:
                    entry["holes"] = holes
            elif kind == "symlink":
                entry["target"] = shown(self.target(os.readlink(place)))
        except Refused as refused:
            entry["error"] = refused.rule
        if kind == "directory":
            self.directory(place, plain)

    def target(self, backing):
        if backing.startswith(b"="):
            need(len(backing) == 33, "symlink-length")
            base64url(backing[1:], "symlink-alphabet")
            folder, pieces = os.path.join(self.path, b"private", b"links"), []
            for index in range(6):
                piece = os.path.join(folder, b"%s.%d" % (backing[1:], index))
                if not os.path.lexists(piece):
                    break
                pieces.append(os.readlink(piece))
            need(pieces, "symlink-piece-missing")
            sealed_text, rule = b"".join(pieces), "symlink-piece-missing"
        else:
            sealed_text, rule = backing, "symlink-edited"
        sealed = base64url(sealed_text, rule if rule == "symlink-piece-missing" else "symlink-alphabet")
        need(28 < len(sealed) <= 28 + 4095, "symlink-length")
        target = self.opened(lambda keys: open_message(keys.symlink, sealed, b"", rule))
        need(b"\0" not in target, "symlink-not-a-target")
        return target

    def xattrs(self, place, kind):
        attribute = "user.sero" if kind in ("file", "directory") else "trusted.sero"
        try:
            sealed = os.getxattr(place, attribute, follow_symlinks=False)
        except OSError:
            return {}
        need(28 <= len(sealed) <= 65536, "xattr-length")
        plain = self.opened(lambda keys: open_message(keys.xattr, sealed, b"", "xattr-edited"))
        table, last = {}, b""
        while plain:
            need(len(plain) >= 6, "xattr-cut")
            name_end = 6 + integer(plain[:2])
            end = name_end + integer(plain[2:6])
            need(len(plain) >= end, "xattr-cut")
            name, value, plain = plain[6:name_end], plain[name_end:end], plain[end:]
            need(0 < len(name) <= 255 and b"\0" not in name, "xattr-name")
            need(name > last, "xattr-order")
            table[shown(name)] = base64.b64encode(value).decode()
            last = name
        return table


def main():
    arguments, config, secrets = sys.argv[1:], None, {}
    read = {
        "--keyfile": lambda content: hashlib.sha256(content).digest(),
        "--recovery": recovery_key,
        "--command": base64.b64decode,
        "--environment": base64.b64decode,
    }
    try:
        while len(arguments) > 1:
            option, path = arguments.pop(0), arguments.pop(0)
            if option == "--config":
                config = path
            elif option in read:
                with open(path, "rb") as file:
                    secrets[option[2:]] = read[option](file.read())
            else:
                arguments = []
        if len(arguments) != 1:
            print(__doc__, file=sys.stderr)
            return 2
        passphrase = sys.stdin.buffer.read()
        if passphrase.endswith(b"\n"):
            passphrase = passphrase[:-1]
        if passphrase:
            secrets["passphrase"] = passphrase
        manifest = Vault(os.fsencode(arguments[0]), secrets, config).walk()
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 3
    json.dump(manifest, sys.stdout, indent=1)
    print()
    return 1 if any("error" in entry for entry in manifest) else 0


if __name__ == "__main__":
    sys.exit(main())
