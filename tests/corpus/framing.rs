//! Requests as bytes, each with the mistake that it carries and what must come of it.
//!
//! Every row is on the authenticated path: its token and its secret are good, only its framing is not, or is
//! just about. Behind each malformed request stands a whole good one for `/smuggled`, which nobody may ever
//! see as a request: whoever reads the mistake away would find it.

/// What must come of one request of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It passes: `METHOD /path`, and its body.
    Passed(String, Vec<u8>),
    /// relay refuses it with this code and closes the connection.
    Refused(&'static str),
}

/// One connection's bytes.
pub struct Row {
    pub mistake: String,
    pub bytes: Vec<u8>,
    /// One for each answer, in order.
    pub expected: Vec<Outcome>,
}

/// Whose requests these are.
pub struct Caller {
    /// `/integration/uuid`
    pub path: String,
    pub token: String,
}

const MALFORMED: &str = "request_malformed";
const PATH: &str = "path_refused";
const TOO_LARGE: &str = "head_too_large";

/// The whole corpus.
pub fn rows(caller: &Caller) -> Vec<Row> {
    let mut corpus = Corpus { caller, rows: Vec::new() };
    corpus.request_lines();
    corpus.targets();
    corpus.hosts();
    corpus.names();
    corpus.values();
    corpus.lengths();
    corpus.codings();
    corpus.line_ends();
    corpus.chunks();
    corpus.trailers();
    corpus.protocols();
    corpus.sizes();
    corpus.good();
    corpus.rows
}

struct Corpus<'a> {
    caller: &'a Caller,
    rows: Vec<Row>,
}

impl Corpus<'_> {
    fn host(&self) -> String {
        format!("host: relay.test\r\nauthorization: Bearer {}\r\n", self.caller.token)
    }

    fn good_request(&self, path: &str) -> Vec<u8> {
        format!("GET {}{path} HTTP/1.1\r\n{}\r\n", self.caller.path, self.host()).into_bytes()
    }

    fn refused(&mut self, code: &'static str, mistake: impl Into<String>, bytes: impl AsRef<[u8]>) {
        let bytes = [bytes.as_ref(), &self.good_request("/smuggled")].concat();
        self.rows.push(Row { mistake: mistake.into(), bytes, expected: vec![Outcome::Refused(code)] });
    }

    /// A refused row: this line, the usual fields, these fields, and a body.
    fn line(&mut self, mistake: &str, line: &str) {
        let bytes = format!("{line}\r\n{}\r\n", self.host());
        self.refused(MALFORMED, mistake, bytes);
    }

    fn target(&mut self, code: &'static str, mistake: &str, target: &[u8]) {
        let host = self.host();
        let bytes = [b"GET ", target, b" HTTP/1.1\r\n", host.as_bytes(), b"\r\n"].concat();
        self.refused(code, mistake, bytes);
    }

    fn fields(&mut self, mistake: impl Into<String>, fields: impl AsRef<[u8]>, body: &str) {
        let begin = format!("POST {}/x HTTP/1.1\r\n{}", self.caller.path, self.host());
        let bytes = [begin.as_bytes(), fields.as_ref(), b"\r\n", body.as_bytes()].concat();
        self.refused(MALFORMED, mistake, bytes);
    }

    fn passes(&mut self, label: &str, bytes: impl AsRef<[u8]>, expected: &[(&str, &[u8])]) {
        let passed =
            expected.iter().map(|(line, body)| Outcome::Passed((*line).to_owned(), body.to_vec())).collect();
        self.rows.push(Row { mistake: label.to_owned(), bytes: bytes.as_ref().to_vec(), expected: passed });
    }

    fn request_lines(&mut self) {
        let path = self.caller.path.clone();
        let lines = [
            ("two spaces behind the method", "GET  {P}/x HTTP/1.1"),
            ("two spaces before the version", "GET {P}/x  HTTP/1.1"),
            ("a tab behind the method", "GET\t{P}/x HTTP/1.1"),
            ("a tab before the version", "GET {P}/x\tHTTP/1.1"),
            ("a space at the end of the line", "GET {P}/x HTTP/1.1 "),
            ("a space at the beginning of the line", " GET {P}/x HTTP/1.1"),
            ("a tab at the beginning of the line", "\tGET {P}/x HTTP/1.1"),
            ("a space inside the target", "GET {P}/x y HTTP/1.1"),
            ("no target", "GET HTTP/1.1"),
            ("an empty target", "GET  HTTP/1.1"),
            ("no method", "{P}/x HTTP/1.1"),
            ("an empty method", " {P}/x HTTP/1.1"),
            ("no version: HTTP/0.9", "GET {P}/x"),
            ("an empty version", "GET {P}/x "),
            ("HTTP/0.9 by name", "GET {P}/x HTTP/0.9"),
            ("HTTP/2.0", "GET {P}/x HTTP/2.0"),
            ("HTTP/2", "GET {P}/x HTTP/2"),
            ("HTTP/3.0", "GET {P}/x HTTP/3.0"),
            ("HTTP/1.2", "GET {P}/x HTTP/1.2"),
            ("HTTP/1.9", "GET {P}/x HTTP/1.9"),
            ("HTTP/1", "GET {P}/x HTTP/1"),
            ("HTTP/1.", "GET {P}/x HTTP/1."),
            ("HTTP/.1", "GET {P}/x HTTP/.1"),
            ("HTTP/11", "GET {P}/x HTTP/11"),
            ("HTTP/1.10", "GET {P}/x HTTP/1.10"),
            ("HTTP/1.01", "GET {P}/x HTTP/1.01"),
            ("HTTP/01.1", "GET {P}/x HTTP/01.1"),
            ("HTTP/1,1", "GET {P}/x HTTP/1,1"),
            ("HTTP 1.1", "GET {P}/x HTTP 1.1"),
            ("HTTP/ 1.1", "GET {P}/x HTTP/ 1.1"),
            ("HTTP/1.1 with a semicolon", "GET {P}/x HTTP/1.1;x"),
            ("HTTP/-1.1", "GET {P}/x HTTP/-1.1"),
            ("HTTP/+1.1", "GET {P}/x HTTP/+1.1"),
            ("HTTP/x.1", "GET {P}/x HTTP/x.1"),
            ("http/1.1 in small letters", "GET {P}/x http/1.1"),
            ("Http/1.1 in mixed letters", "GET {P}/x Http/1.1"),
            ("HTP/1.1", "GET {P}/x HTP/1.1"),
            ("HTTPS/1.1", "GET {P}/x HTTPS/1.1"),
            ("ICY/1.1", "GET {P}/x ICY/1.1"),
            ("SIP/2.0", "GET {P}/x SIP/2.0"),
            ("two versions", "GET {P}/x HTTP/1.1 HTTP/1.1"),
            ("a NUL behind the version", "GET {P}/x HTTP/1.1\0"),
            ("a byte order mark", "\u{feff}GET {P}/x HTTP/1.1"),
            ("a method with a colon", "GET: {P}/x HTTP/1.1"),
            ("a method with a slash", "GE/T {P}/x HTTP/1.1"),
            ("a method with a comma", "GET,POST {P}/x HTTP/1.1"),
            ("a method in quotes", "\"GET\" {P}/x HTTP/1.1"),
            ("a method with an at sign", "GET@ {P}/x HTTP/1.1"),
            ("a method with a bracket", "GET[] {P}/x HTTP/1.1"),
            ("a method with a NUL", "GE\0T {P}/x HTTP/1.1"),
            ("a method with a letter beyond ASCII", "GÉT {P}/x HTTP/1.1"),
            ("a method with a backspace", "GET\x08 {P}/x HTTP/1.1"),
            ("TRACE", "TRACE {P}/x HTTP/1.1"),
            ("CONNECT with a path", "CONNECT {P}/x HTTP/1.1"),
            ("CONNECT with an authority", "CONNECT relay.test:443 HTTP/1.1"),
            ("CONNECT by HTTP/1.0", "CONNECT relay.test:443 HTTP/1.0"),
            ("an answer", "HTTP/1.1 200 OK"),
            ("a field in place of the line", "host: relay.test"),
        ];
        for (mistake, line) in lines {
            self.line(mistake, &line.replace("{P}", &path));
        }
    }

    fn targets(&mut self) {
        let path = self.caller.path.clone().into_bytes();
        let refused: [(&str, &[u8]); 12] = [
            ("a fragment", b"/x#y"),
            ("a fragment alone", b"#"),
            ("a fragment behind the query", b"/x?a=b#c"),
            ("a NUL in the target", b"/x\0y"),
            ("a backspace in the target", b"/x\x08y"),
            ("a DEL in the target", b"/x\x7f"),
            ("an escape in the target", b"/\x1b[2J"),
            ("UTF-8 in the target", "/\u{e9}".as_bytes()),
            ("Latin-1 in the target", b"/\xe9"),
            ("UTF-8 in the query", "/x?a=\u{e9}".as_bytes()),
            ("an overlong slash in the target", b"/..\xc0\xaf"),
            ("angle brackets in the target", b"/<script>"),
        ];
        for (mistake, rest) in refused {
            self.target(PATH, mistake, &[&path, rest].concat());
        }
        let whole: [(&'static str, &str, &[u8]); 13] = [
            (MALFORMED, "an asterisk for a target", b"*"),
            (PATH, "a target without a slash", b"vendor/x"),
            (PATH, "a target that is a query", b"?x"),
            (PATH, "a target that is a fragment", b"#x"),
            (PATH, "an authority for a target", b"relay.test:80"),
            (PATH, "another scheme", b"ftp://relay.test/vendor/x"),
            (PATH, "a scheme without slashes", b"http:relay.test/vendor/x"),
            (PATH, "an absolute form without a host", b"http:///vendor/x"),
            (PATH, "an absolute form with a user", b"http://user@relay.test/vendor/x"),
            (PATH, "an absolute form with a bad port", b"http://relay.test:99999/vendor/x"),
            (PATH, "an absolute form with an open bracket", b"http://[::1/vendor/x"),
            (PATH, "a file", b"file:///etc/passwd"),
            (MALFORMED, "a CR inside the target", b"/vendor/\rx"),
        ];
        for (code, mistake, target) in whole {
            self.target(code, mistake, target);
        }
    }

    fn hosts(&mut self) {
        let auth = format!("authorization: Bearer {}\r\n", self.caller.token);
        let rows = [
            ("no Host", ""),
            ("two equal Hosts", "host: relay.test\r\nhost: relay.test\r\n"),
            ("two Hosts", "host: relay.test\r\nhost: elsewhere.test\r\n"),
            ("two Hosts in different case", "Host: relay.test\r\nHOST: relay.test\r\n"),
            ("two Hosts far apart", "host: relay.test\r\nx: y\r\naccept: */*\r\nhost: b\r\n"),
            ("an empty Host", "host:\r\n"),
            ("a Host of white space", "host: \t \r\n"),
            ("a Host and an empty one", "host: relay.test\r\nhost:\r\n"),
            ("a list of Hosts", "host: relay.test, elsewhere.test\r\n"),
            ("a space inside Host", "host: relay .test\r\n"),
            ("a path in Host", "host: relay.test/x\r\n"),
            ("a query in Host", "host: relay.test?x\r\n"),
            ("a user in Host", "host: user@relay.test\r\n"),
            ("a port that is no number", "host: relay.test:http\r\n"),
            ("a port beyond 65535", "host: relay.test:70000\r\n"),
            ("an empty port", "host: relay.test:\r\n"),
            ("a port alone", "host: :80\r\n"),
            ("two ports", "host: relay.test:80:80\r\n"),
            ("an open bracket in Host", "host: [::1\r\n"),
            ("letters behind a bracket in Host", "host: [::1]x\r\n"),
            ("empty brackets in Host", "host: []\r\n"),
            ("a backslash in Host", "host: relay.test\\x\r\n"),
            ("a fragment in Host", "host: relay.test#x\r\n"),
            ("a percent in Host", "host: relay%2etest\r\n"),
            ("a scheme in Host", "host: http://relay.test\r\n"),
            ("quotes in Host", "host: \"relay.test\"\r\n"),
            ("a Host with a space before the colon", "host : relay.test\r\n"),
            ("a Host with a tab before the colon", "host\t: relay.test\r\n"),
            ("a Host on a folded line", "x: y\r\n host: relay.test\r\n"),
            ("a Host whose value is folded", "host:\r\n relay.test\r\n"),
            ("a Host behind a NUL", "host: \0relay.test\r\n"),
        ];
        for (mistake, fields) in rows {
            for version in ["1.1", "1.0"] {
                let line = format!("GET {}/x HTTP/{version}\r\n", self.caller.path);
                let mistake = format!("{mistake}, HTTP/{version}");
                self.refused(MALFORMED, mistake, format!("{line}{auth}{fields}\r\n"));
            }
        }
    }

    fn names(&mut self) {
        for byte in b"\"(),/;<=>?@[\\]{}".iter().chain(&[0, 1, 8, 0x0b, 0x0c, 0x1b, 0x7f, 0x80, 0xe9, 0xff]) {
            let name = [b"x", &[*byte][..], b"y: z\r\n"].concat();
            self.fields(format!("{} in a name", byte.escape_ascii()), name, "");
        }
        let rows = [
            ("a space before the colon", "x : y\r\n"),
            ("a tab before the colon", "x\t: y\r\n"),
            ("a space inside a name", "x y: z\r\n"),
            ("an empty name", ": y\r\n"),
            ("a colon alone", ":\r\n"),
            ("no colon", "xyz\r\n"),
            ("a line of one letter", "x\r\n"),
            ("a length with a space before the colon", "content-length : 5\r\n"),
            ("a length with a NUL before the colon", "content-length\0: 5\r\n"),
            ("a coding with a space before the colon", "transfer-encoding : chunked\r\n"),
            ("a coding with a tab before the colon", "transfer-encoding\t: chunked\r\n"),
            ("a coding with a vertical tab before the colon", "transfer-encoding\x0b: chunked\r\n"),
            ("a coding with a form feed before it", "\x0ctransfer-encoding: chunked\r\n"),
            ("a coding with a NUL before it", "\0transfer-encoding: chunked\r\n"),
            ("a name in quotes", "\"transfer-encoding\": chunked\r\n"),
            ("a name with a no-break space", "transfer-encoding\u{a0}: chunked\r\n"),
            ("a name with a hyphen beyond ASCII", "content\u{2010}length: 5\r\n"),
            ("a request line among the fields", "GET /smuggled HTTP/1.1\r\n"),
        ];
        for (mistake, field) in rows {
            self.fields(mistake, field, "0\r\n\r\n");
        }
        self.fields("a name of 2 KiB", format!("{}: y\r\n", "x".repeat(2048)), "");
    }

    fn values(&mut self) {
        for byte in (0..0x20).chain([0x7f]).filter(|byte| !b"\t\n".contains(byte)) {
            let field = [b"x: y", &[byte][..], b"z\r\n"].concat();
            self.fields(format!("{} in a value", byte.escape_ascii()), field, "");
        }
        for byte in [0x80_u8, 0x85, 0xa0, 0xc3, 0xe9, 0xff] {
            let field = [b"x: y", &[byte][..], b"z\r\n"].concat();
            self.fields(format!("{} in a value", byte.escape_ascii()), field, "");
        }
        let rows = [
            ("a folded line", "x: y\r\n z\r\n"),
            ("a line folded by a tab", "x: y\r\n\tz\r\n"),
            ("a folded empty line", "x: y\r\n \r\n"),
            ("a first field that is folded", " x: y\r\n"),
            ("a line of a space", " \r\n"),
            ("a line of a tab", "\t\r\n"),
            ("a folded coding", "transfer-encoding:\r\n chunked\r\n"),
            ("a folded coding behind a value", "transfer-encoding: x\r\n chunked\r\n"),
            ("a coding on a folded line", "x: y\r\n transfer-encoding: chunked\r\n"),
            ("a length on a folded line", "x: y\r\n\tcontent-length: 5\r\n"),
            ("a folded length", "content-length:\r\n 5\r\n"),
            ("UTF-8 in a value", "x: \u{e9}\r\n"),
            ("a line separator in a value", "x: y\u{2028}transfer-encoding: chunked\r\n"),
            ("a letter whose low byte is LF", "x: y\u{10a}transfer-encoding: chunked\r\n"),
        ];
        for (mistake, field) in rows {
            self.fields(mistake, field, "0\r\n\r\n");
        }
    }

    fn lengths(&mut self) {
        let values = [
            "+5",
            "-5",
            "-0",
            "+0",
            "0x5",
            "5x",
            "x",
            "5 5",
            "5,5",
            "5, 5",
            "5,6",
            "5;5",
            "5.0",
            "5e0",
            "1_0",
            "0b1",
            "0o5",
            "\"5\"",
            "'5'",
            "5\t5",
            "5,",
            ",5",
            "",
            " ",
            "5 ,5",
            "٥",
            "５",
            "0x",
            "inf",
            "NaN",
            "null",
            "00000000000000000005",
            "18446744073709551615",
            "18446744073709551616",
            "18446744073709551621",
            "99999999999999999999",
            "-18446744073709551611",
            "5\u{b}",
            "\u{c}5",
            "5\0",
            "5%",
            "5h",
            "(5)",
            "5 bytes",
        ];
        for value in values {
            let mistake = format!("Content-Length is {}", value.as_bytes().escape_ascii());
            self.fields(mistake, format!("content-length: {value}\r\n"), "hello");
        }
        let rows = [
            ("two equal lengths", "content-length: 5\r\ncontent-length: 5\r\n"),
            ("two lengths", "content-length: 5\r\ncontent-length: 6\r\n"),
            ("two lengths, the second one shorter", "content-length: 5\r\ncontent-length: 0\r\n"),
            ("two lengths, the first one shorter", "content-length: 0\r\ncontent-length: 5\r\n"),
            ("two lengths in different case", "Content-Length: 5\r\nCONTENT-LENGTH: 5\r\n"),
            ("two lengths far apart", "content-length: 5\r\nx: y\r\nz: z\r\ncontent-length: 5\r\n"),
            ("two lengths of nothing", "content-length: 0\r\ncontent-length: 0\r\n"),
            ("a length and an empty one", "content-length: 5\r\ncontent-length:\r\n"),
            ("an empty length and one", "content-length:\r\ncontent-length: 5\r\n"),
            ("three lengths", "content-length: 5\r\ncontent-length: 5\r\ncontent-length: 5\r\n"),
        ];
        for (mistake, fields) in rows {
            self.fields(mistake, fields, "hello");
        }
    }

    fn codings(&mut self) {
        let values = [
            "",
            "x",
            "identity",
            "gzip",
            "gzip, chunked",
            "chunked, gzip",
            "chunked, chunked",
            "chunked,chunked",
            ",chunked",
            "chunked,",
            ", chunked",
            "chunked ,",
            "identity, chunked",
            "chunked, identity",
            "\"chunked\"",
            "'chunked'",
            "chunked;q=1",
            "chunked; x=y",
            "chunkedx",
            "xchunked",
            "x chunked",
            "chunked x",
            "chunke",
            "chu nked",
            "chunk",
            "Chunked",
            "CHUNKED",
            "cHuNkEd",
            "\u{b}chunked",
            "chunked\u{b}",
            "chunked\u{c}",
            "\0chunked",
            "chunked\0",
            "chunKed",
            "deflate",
            "compress, chunked",
            "null",
            "(chunked)",
            "chunked()",
            "c\u{1}hunked",
            "chunked\u{a0}",
            "\u{feff}chunked",
        ];
        for value in values {
            let mistake = format!("Transfer-Encoding is {}", value.as_bytes().escape_ascii());
            self.fields(mistake, format!("transfer-encoding: {value}\r\n"), "0\r\n\r\n");
        }
        let rows = [
            ("chunked twice", "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
            ("chunked and identity", "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n"),
            ("identity and chunked", "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n"),
            ("chunked and an unknown coding", "transfer-encoding: chunked\r\ntransfer-encoding: cow\r\n"),
            ("chunked and an empty coding", "transfer-encoding: chunked\r\ntransfer-encoding:\r\n"),
            (
                "chunked twice in different case",
                "Transfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            ),
            ("a length before chunked", "content-length: 5\r\ntransfer-encoding: chunked\r\n"),
            ("a length behind chunked", "transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
            ("a length of nothing with chunked", "content-length: 0\r\ntransfer-encoding: chunked\r\n"),
            ("chunked with a length of nothing", "transfer-encoding: chunked\r\ncontent-length: 0\r\n"),
            ("a length with gzip", "content-length: 5\r\ntransfer-encoding: gzip\r\n"),
            ("a length with an empty coding", "content-length: 5\r\ntransfer-encoding:\r\n"),
            ("a length of the head's own chunks", "content-length: 4\r\ntransfer-encoding: chunked\r\n"),
        ];
        for (mistake, fields) in rows {
            self.fields(mistake, fields, "0\r\n\r\n");
        }
        for fields in
            ["transfer-encoding: chunked\r\n", "connection: keep-alive\r\ntransfer-encoding: chunked\r\n"]
        {
            let line = format!("POST {}/x HTTP/1.0\r\n", self.caller.path);
            let bytes = format!("{line}{}{fields}\r\n0\r\n\r\n", self.host());
            self.refused(MALFORMED, format!("HTTP/1.0 with {}", fields.escape_debug()), bytes);
        }
    }

    fn line_ends(&mut self) {
        let (path, host) = (self.caller.path.clone(), self.host());
        let rows = [
            ("LF behind the request line", format!("GET {path}/x HTTP/1.1\n{host}\r\n")),
            ("LF behind a field", format!("GET {path}/x HTTP/1.1\r\n{host}x: y\n\r\n")),
            ("LF behind every line", format!("GET {path}/x HTTP/1.1\n{}\n", host.replace("\r\n", "\n"))),
            ("LF for the empty line", format!("GET {path}/x HTTP/1.1\r\n{host}\n")),
            ("LF CR for the empty line", format!("GET {path}/x HTTP/1.1\r\n{host}\n\r")),
            ("CR behind the request line", format!("GET {path}/x HTTP/1.1\r{host}\r\n")),
            ("CR behind a field", format!("GET {path}/x HTTP/1.1\r\n{host}x: y\rz: y\r\n\r\n")),
            ("CR CR LF behind a field", format!("GET {path}/x HTTP/1.1\r\n{host}x: y\r\r\n\r\n")),
            ("CR CR LF behind the request line", format!("GET {path}/x HTTP/1.1\r\r\n{host}\r\n")),
            ("CR CR LF for the empty line", format!("GET {path}/x HTTP/1.1\r\n{host}\r\r\n")),
            ("CR at the beginning of a line", format!("GET {path}/x HTTP/1.1\r\n{host}\rx: y\r\n\r\n")),
            (
                "a coding behind a CR",
                format!("GET {path}/x HTTP/1.1\r\n{host}x: y\rtransfer-encoding: chunked\r\n\r\n"),
            ),
            (
                "a coding behind an LF",
                format!("GET {path}/x HTTP/1.1\r\n{host}x: y\ntransfer-encoding: chunked\r\n\r\n"),
            ),
            (
                "a length behind an LF",
                format!("POST {path}/x HTTP/1.1\r\n{host}x: y\ncontent-length: 5\r\n\r\n"),
            ),
            ("an empty line before the request", format!("\r\nGET {path}/x HTTP/1.1\r\n{host}\r\n")),
            ("two empty lines before the request", format!("\r\n\r\nGET {path}/x HTTP/1.1\r\n{host}\r\n")),
            ("an LF before the request", format!("\nGET {path}/x HTTP/1.1\r\n{host}\r\n")),
            ("a CR before the request", format!("\rGET {path}/x HTTP/1.1\r\n{host}\r\n")),
            ("a NUL before the request", format!("\0GET {path}/x HTTP/1.1\r\n{host}\r\n")),
            ("a line of white space before the request", format!(" \r\nGET {path}/x HTTP/1.1\r\n{host}\r\n")),
            ("a NUL for the empty line", format!("GET {path}/x HTTP/1.1\r\n{host}\0\r\n\r\n")),
        ];
        for (mistake, bytes) in rows {
            self.refused(MALFORMED, mistake, bytes);
        }
    }

    fn chunks(&mut self) {
        let bodies = [
            ("no size", "\r\nhello\r\n0\r\n\r\n"),
            ("a size that is no number", "x\r\nhello\r\n0\r\n\r\n"),
            ("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
            ("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
            ("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
            ("a size with 0X", "0X5\r\nhello\r\n0\r\n\r\n"),
            ("a space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
            ("a space behind the size", "5 \r\nhello\r\n0\r\n\r\n"),
            ("a tab behind the size", "5\t\r\nhello\r\n0\r\n\r\n"),
            ("a space before an extension", "5 ;x\r\nhello\r\n0\r\n\r\n"),
            ("a size in quotes", "\"5\"\r\nhello\r\n0\r\n\r\n"),
            ("a size with a comma", "5,5\r\nhello\r\n0\r\n\r\n"),
            ("a size with a point", "5.0\r\nhello\r\n0\r\n\r\n"),
            ("a size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
            ("a size with a letter h", "5h\r\nhello\r\n0\r\n\r\n"),
            ("a size with a NUL", "5\0\r\nhello\r\n0\r\n\r\n"),
            ("a size in digits beyond ASCII", "\u{ff15}\r\nhello\r\n0\r\n\r\n"),
            ("a size of 17 digits", "00000000000000005\r\nhello\r\n0\r\n\r\n"),
            ("a size beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
            ("a size far beyond 64 bits", "fffffffffffffffff5\r\nhello\r\n0\r\n\r\n"),
            ("LF behind the size", "5\nhello\r\n0\r\n\r\n"),
            ("CR behind the size", "5\rhello\r\n0\r\n\r\n"),
            ("CR CR LF behind the size", "5\r\r\nhello\r\n0\r\n\r\n"),
            ("LF CR behind the size", "5\n\rhello\r\n0\r\n\r\n"),
            ("a chunk longer than its size", "5\r\nhello!\r\n0\r\n\r\n"),
            ("a chunk shorter than its size", "7\r\nhello\r\n0\r\n\r\n"),
            ("nothing behind a chunk", "5\r\nhello0\r\n\r\n"),
            ("LF behind a chunk", "5\r\nhello\n0\r\n\r\n"),
            ("CR behind a chunk", "5\r\nhello\r0\r\n\r\n"),
            ("two line ends behind a chunk", "5\r\nhello\r\n\r\n0\r\n\r\n"),
            ("a space behind a chunk", "5\r\nhello \r\n0\r\n\r\n"),
            ("a NUL in an extension", "5;x=\0\r\nhello\r\n0\r\n\r\n"),
            ("an LF in an extension", "5;x=\nGET / HTTP/1.1\r\nhello\r\n0\r\n\r\n"),
            ("a CR in an extension", "5;x=\ry\r\nhello\r\n0\r\n\r\n"),
            ("LF in a quoted extension", "5;x=\"\n\"\r\nhello\r\n0\r\n\r\n"),
            ("CRLF in a quoted extension", "5;x=\"\r\n\"\r\nhello\r\n0\r\n\r\n"),
            ("UTF-8 in an extension", "5;x=\u{e9}\r\nhello\r\n0\r\n\r\n"),
            ("LF behind an extension", "5;x\nhello\r\n0\r\n\r\n"),
            ("an extension without a size", ";x\r\nhello\r\n0\r\n\r\n"),
            ("LF behind the last size", "5\r\nhello\r\n0\n\r\n"),
            ("LF for the last line", "5\r\nhello\r\n0\r\n\n"),
            ("CR for the last line", "5\r\nhello\r\n0\r\n\rx"),
            ("a negative end", "5\r\nhello\r\n-0\r\n\r\n"),
            ("an end with a space", "5\r\nhello\r\n0 \r\n\r\n"),
            ("text for an end", "5\r\nhello\r\nend\r\n\r\n"),
        ];
        for (mistake, body) in bodies {
            self.fields(format!("chunks: {mistake}"), "transfer-encoding: chunked\r\n", body);
        }
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(2048));
        self.fields("chunks: an extension of 2 KiB", "transfer-encoding: chunked\r\n", &long);
        let many = format!("{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "y".repeat(100)).repeat(20));
        self.fields("chunks: many extensions", "transfer-encoding: chunked\r\n", &many);
    }

    fn trailers(&mut self) {
        let trailers = [
            ("a folded line", "x: y\r\n z\r\n"),
            ("a line that begins with white space", " x: y\r\n"),
            ("a space before the colon", "x : y\r\n"),
            ("no colon", "x\r\n"),
            ("no name", ": y\r\n"),
            ("a name that is no token", "x(y): z\r\n"),
            ("LF behind a field", "x: y\n"),
            ("CR behind a field", "x: y\rz\r\n"),
            ("a NUL in a value", "x: \0\r\n"),
            ("a length", "content-length: 5\r\n"),
            ("a coding", "Transfer-Encoding: chunked\r\n"),
            ("a Host", "host: relay.test\r\n"),
            ("a request line", "GET /smuggled HTTP/1.1\r\n"),
        ];
        for (mistake, trailer) in trailers {
            let body = format!("5\r\nhello\r\n0\r\n{trailer}\r\n");
            self.fields(format!("trailers: {mistake}"), "transfer-encoding: chunked\r\n", &body);
        }
        let long = format!("0\r\nx: {}\r\n\r\n", "y".repeat(9 * 1024));
        self.fields("trailers: 9 KiB", "transfer-encoding: chunked\r\n", &long);
        let many = format!("0\r\n{}\r\n", "x: y\r\n".repeat(100));
        self.fields("trailers: a hundred", "transfer-encoding: chunked\r\n", &many);
    }

    fn protocols(&mut self) {
        self.refused(MALFORMED, "TLS where none is spoken", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
        self.refused(MALFORMED, "a PROXY line", "PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n");
        self.refused(MALFORMED, "a binary PROXY header", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        self.refused(MALFORMED, "SMTP", "EHLO relay.test\r\n");
        self.refused(MALFORMED, "RESP", "*1\r\n$4\r\nPING\r\n");
        self.refused(MALFORMED, "SSH", "SSH-2.0-OpenSSH_9.9\r\n");
    }

    fn sizes(&mut self) {
        let (path, host) = (self.caller.path.clone(), self.host());
        let line = format!("GET {path}/x HTTP/1.1\r\n{host}");
        let rows = [
            ("a value of 40 KiB", format!("{line}x: {}\r\n\r\n", "y".repeat(40 * 1024))),
            ("a target of 40 KiB", format!("GET {path}/{} HTTP/1.1\r\n{host}\r\n", "x".repeat(40 * 1024))),
            ("a method of 40 KiB", format!("{} {path} HTTP/1.1\r\n{host}\r\n", "X".repeat(40 * 1024))),
            ("a line of 40 KiB without an end", "X".repeat(40 * 1024)),
            ("101 fields", format!("{line}{}\r\n", "x: y\r\n".repeat(99))),
            ("4,000 fields", format!("{line}{}\r\n", "x: y\r\n".repeat(4000))),
            ("many long fields", format!("{line}{}\r\n", format!("x: {}\r\n", "y".repeat(1000)).repeat(40))),
        ];
        for (mistake, bytes) in rows {
            self.refused(TOO_LARGE, mistake, bytes);
        }
    }

    fn good(&mut self) {
        let (path, host) = (self.caller.path.clone(), self.host());
        let get = |rest: &str| format!("GET {path}{rest} HTTP/1.1\r\n{host}");
        let post = format!("POST {path}/x HTTP/1.1\r\n{host}");
        let chunked = format!("{post}transfer-encoding: chunked\r\n\r\n");
        let long = "y".repeat(16 * 1024);
        let large = "0123456789abcdef".repeat(8 * 1024);
        let get_x: (&str, &[u8]) = ("GET /x", b"");
        let hello: (&str, &[u8]) = ("POST /x", b"hello");
        let empty: (&str, &[u8]) = ("POST /x", b"");
        let one = |label: &'static str, bytes: String, expected| (label, bytes, vec![expected]);
        let rows: Vec<(&str, String, Vec<(&str, &[u8])>)> = vec![
            one("a plain request", format!("{}\r\n", get("/x")), get_x),
            one("HTTP/1.0", format!("GET {path}/x HTTP/1.0\r\n{host}\r\n"), get_x),
            one("a request that closes", format!("{}connection: close\r\n\r\n", get("/x")), get_x),
            one("no space behind the colon", format!("{}x:y\r\n\r\n", get("/x")), get_x),
            one("white space round a value", format!("{}x: \t y \t \r\n\r\n", get("/x")), get_x),
            one("a tab inside a value", format!("{}x: y\tz\r\n\r\n", get("/x")), get_x),
            one("an empty value", format!("{}x:\r\ny: \r\n\r\n", get("/x")), get_x),
            one("a value with colons", format!("{}x: a:b:c\r\n\r\n", get("/x")), get_x),
            one(
                "every token character in a name",
                format!("{}x!#$%&'*+-.^_`|~9: y\r\n\r\n", get("/x")),
                get_x,
            ),
            one("a field twice", format!("{}x: y\r\nx: z\r\n\r\n", get("/x")), get_x),
            one(
                "fields in capitals",
                format!("GET {path}/x HTTP/1.1\r\n{}\r\n", host.replace("host", "HOST")),
                get_x,
            ),
            one("a long value", format!("{}x: {long}\r\n\r\n", get("/x")), get_x),
            one("a hundred fields", format!("{}{}\r\n", get("/x"), "x: y\r\n".repeat(98)), get_x),
            one("a length of nothing", format!("{}content-length: 0\r\n\r\n", get("/x")), get_x),
            one("the absolute form", format!("GET http://relay.test{path}/x HTTP/1.1\r\n{host}\r\n"), get_x),
            one("te: trailers", format!("{}te: trailers\r\nconnection: te\r\n\r\n", get("/x")), get_x),
            one("another method", format!("PROPFIND {path}/x HTTP/1.1\r\n{host}\r\n"), ("PROPFIND /x", b"")),
            one("HEAD", format!("HEAD {path}/x HTTP/1.1\r\n{host}\r\n"), ("HEAD /x", b"")),
            one(
                "OPTIONS with a path",
                format!("OPTIONS {path}/x HTTP/1.1\r\n{host}\r\n"),
                ("OPTIONS /x", b""),
            ),
            one("a query", format!("{}\r\n", get("/x?a=b&c=%20d")), ("GET /x?a=b&c=%20d", b"")),
            one(
                "odd characters in a path",
                format!("{}\r\n", get("/~a!$&'()*+,;=:@b|{}\"")),
                ("GET /~a!$&'()*+,;=:@b|{}\"", b""),
            ),
            one("a body by length", format!("{post}content-length: 5\r\n\r\nhello"), hello),
            one(
                "a length with white space round it",
                format!("{post}content-length:\t5 \r\n\r\nhello"),
                hello,
            ),
            one("a length with zeros before it", format!("{post}content-length: 005\r\n\r\nhello"), hello),
            one(
                "a body on a GET",
                format!("{}content-length: 5\r\n\r\nhello", get("/x")),
                ("GET /x", b"hello"),
            ),
            one("a body by chunks", format!("{chunked}5\r\nhello\r\n0\r\n\r\n"), hello),
            one(
                "chunks of one byte",
                format!("{chunked}1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n"),
                hello,
            ),
            one("a size with zeros before it", format!("{chunked}0005\r\nhello\r\n000\r\n\r\n"), hello),
            one(
                "a size in capitals",
                format!("{chunked}A\r\n0123456789\r\n0\r\n\r\n"),
                ("POST /x", b"0123456789"),
            ),
            one("a short extension", format!("{chunked}5;x=y\r\nhello\r\n0;z\r\n\r\n"), hello),
            one("a quoted extension", format!("{chunked}5;x=\"y; z\"\r\nhello\r\n0\r\n\r\n"), hello),
            one("no chunks but the last", format!("{chunked}0\r\n\r\n"), empty),
            one("trailers", format!("{chunked}5\r\nhello\r\n0\r\nx: y\r\nz:\r\n\r\n"), hello),
            one(
                "a body that looks like a request",
                format!("{post}content-length: 28\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n "),
                ("POST /x", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n "),
            ),
            one(
                "a body of 128 KiB by length",
                format!("{post}content-length: {}\r\n\r\n{large}", large.len()),
                ("POST /x", large.as_bytes()),
            ),
            one(
                "a body of 128 KiB in one chunk",
                format!("{chunked}{:x}\r\n{large}\r\n0\r\n\r\n", large.len()),
                ("POST /x", large.as_bytes()),
            ),
            ("two requests", format!("{}\r\n{}\r\n", get("/x"), get("/y")), vec![get_x, ("GET /y", b"")]),
            ("twenty requests", format!("{}\r\n", get("/x")).repeat(20), vec![get_x; 20]),
            (
                "a body by length, then a request",
                format!("{post}content-length: 5\r\n\r\nhello{}\r\n", get("/y")),
                vec![hello, ("GET /y", b"")],
            ),
            (
                "chunks, then a request",
                format!("{chunked}5\r\nhello\r\n0\r\n\r\n{}\r\n", get("/y")),
                vec![hello, ("GET /y", b"")],
            ),
            (
                "trailers, then chunks, then a request",
                format!("{chunked}0\r\nx: y\r\n\r\n{chunked}5\r\nhello\r\n0\r\n\r\n{}\r\n", get("/y")),
                vec![empty, hello, ("GET /y", b"")],
            ),
            (
                "a large body, then a request",
                format!("{post}content-length: {}\r\n\r\n{large}{}\r\n", large.len(), get("/y")),
                vec![("POST /x", large.as_bytes()), ("GET /y", b"")],
            ),
        ];
        for (label, bytes, expected) in rows {
            self.passes(label, bytes, &expected);
        }
        let bytes = format!("{}\r\nGET /y HTTP/1.1\n\n", get("/x"));
        let expected = vec![Outcome::Passed("GET /x".to_owned(), Vec::new()), Outcome::Refused(MALFORMED)];
        self.rows.push(Row {
            mistake: "a good request, then one with LF".to_owned(),
            bytes: bytes.into_bytes(),
            expected,
        });
    }
}
