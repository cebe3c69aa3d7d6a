//! One source file: the modules that it declares, the paths that it uses, and its functions.

use std::collections::BTreeSet;

use super::lexer::{Kind, Token, tokens};

/// What the rules need to know of a source file.
#[derive(Debug, Default)]
pub(super) struct Source<'a> {
    pub(super) modules: Vec<Module<'a>>,
    pub(super) paths: Vec<Path<'a>>,
    pub(super) functions: Vec<Function<'a>>,
    /// Every keyword and name.
    pub(super) words: Vec<Token<'a>>,
    /// Lines of the file, with comments and blank lines.
    pub(super) lines: usize,
}

/// A module that the file declares or contains.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module<'a> {
    /// The inline modules around it, then its name.
    pub(super) path: Vec<&'a str>,
    pub(super) is_inline: bool,
}

/// A path of two or more names in an expression or a type, or any path in a `use` item.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path<'a> {
    pub(super) names: Vec<&'a str>,
    /// For a `use` item, the name that it brings into scope.
    pub(super) alias: Option<&'a str>,
    pub(super) line: usize,
    /// The inline modules around it.
    pub(super) scope: Vec<&'a str>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    /// From `fn` to the closing brace.
    pub(super) lines: usize,
}

impl<'a> Source<'a> {
    pub(super) fn parse(text: &'a str) -> Source<'a> {
        let (tokens, test_lines) = without_tests(&tokens(text));
        Source { lines: text.lines().count() - test_lines.len(), ..Source::of(&tokens) }
    }

    /// Keeps the items for tests.
    pub(super) fn parse_with_tests(text: &'a str) -> Source<'a> {
        Source { lines: text.lines().count(), ..Source::of(&tokens(text)) }
    }

    fn of(tokens: &[Token<'a>]) -> Source<'a> {
        let mut parser = Parser { tokens, at: 0, depth: 0, inline: Vec::new(), source: Source::default() };
        parser.run();
        let words = tokens.iter().filter(|token| token.kind == Kind::Word).copied().collect();
        Source { words, ..parser.source }
    }
}

/// Removes the items with `#[cfg(test)]`. Returns the other tokens, and the removed lines.
fn without_tests<'a>(tokens: &[Token<'a>]) -> (Vec<Token<'a>>, BTreeSet<usize>) {
    let (mut kept, mut lines, mut at) = (Vec::new(), BTreeSet::new(), 0);
    while at < tokens.len() {
        if is_test_attribute(&tokens[at..]) {
            let end = item_end(tokens, at);
            lines.extend(tokens[at].line..=tokens[end - 1].line);
            at = end;
        } else {
            kept.push(tokens[at]);
            at += 1;
        }
    }
    (kept, lines)
}

/// Whether the tokens begin with `#[cfg(test)]` or `#[cfg(all(test, …))]`. An item with `any` or `not` is compiled
/// without tests too.
fn is_test_attribute(tokens: &[Token<'_>]) -> bool {
    let begins = |expected: &[&str]| {
        tokens.len() >= expected.len() && tokens.iter().zip(expected).all(|(token, text)| token.text == *text)
    };
    begins(&["#", "[", "cfg", "(", "test", ")", "]"]) || begins(&["#", "[", "cfg", "(", "all", "(", "test", ","])
}

/// Returns the index after the item that begins at `start` with an attribute: after its body, or after its `;`. A field
/// or a statement has neither, so the search ends with the block around it.
fn item_end(tokens: &[Token<'_>], start: usize) -> usize {
    let mut at = start;
    while tokens.get(at).is_some_and(|token| token.text == "#") {
        at = group_end(tokens, at + 1);
    }
    if tokens.get(at).is_some_and(|token| token.text == "pub") {
        at += 1;
        if tokens.get(at).is_some_and(|token| token.text == "(") {
            at = group_end(tokens, at);
        }
    }
    let has_body = tokens.get(at).is_some_and(|token| token.text != "use");
    while let Some(token) = tokens.get(at) {
        match token.text {
            ";" => return at + 1,
            "}" | ")" | "]" => return at,
            "{" if has_body => return group_end(tokens, at),
            "{" | "(" | "[" => at = group_end(tokens, at),
            _ => at += 1,
        }
    }
    tokens.len()
}

/// Returns the index after the bracket that closes the one at `open`.
fn group_end(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
    at: usize,
    /// Open braces.
    depth: usize,
    /// The inline modules around the current token, each with the depth of its braces.
    inline: Vec<(&'a str, usize)>,
    source: Source<'a>,
}

impl<'a> Parser<'_, 'a> {
    fn run(&mut self) {
        while let Some(token) = self.tokens.get(self.at) {
            match token.text {
                // `impl Trait + use<'a>` lists captured lifetimes.
                "use" if self.text(1) != "<" => self.use_item(),
                "mod" => self.module(),
                "fn" => self.function(),
                "{" => {
                    self.depth += 1;
                    self.at += 1;
                }
                "}" => {
                    self.depth = self.depth.saturating_sub(1);
                    self.inline.retain(|(_, depth)| *depth <= self.depth);
                    self.at += 1;
                }
                _ if token.kind == Kind::Word && self.text(1) == "::" && !self.is_continued() => self.inline_path(),
                _ => self.at += 1,
            }
        }
    }

    /// The text of the token `ahead` of the current one.
    fn text(&self, ahead: usize) -> &'a str {
        self.tokens.get(self.at + ahead).map_or("", |token| token.text)
    }

    /// Whether the current word is no beginning of a path: `::std::fs`, `<T as Trait>::Item`, `pub(in crate::engine)`.
    fn is_continued(&self) -> bool {
        let before = |back: usize| self.at.checked_sub(back).map_or("", |at| self.tokens[at].text);
        before(1) == "::" || before(1) == "in" && before(2) == "("
    }

    fn scope(&self) -> Vec<&'a str> {
        self.inline.iter().map(|(name, _)| *name).collect()
    }

    fn module(&mut self) {
        let (name, is_inline) = (self.text(1), self.text(2) == "{");
        let mut path = self.scope();
        path.push(name);
        self.source.modules.push(Module { path, is_inline });
        if is_inline {
            self.inline.push((name, self.depth + 1));
        }
        self.at += 2;
    }

    fn function(&mut self) {
        let (start, name) = (self.at, self.text(1));
        self.at += 1;
        // `fn(u32) -> bool` is a type.
        if self.tokens.get(self.at).is_none_or(|token| token.kind != Kind::Word) {
            return;
        }
        let mut at = self.at;
        while let Some(token) = self.tokens.get(at) {
            match token.text {
                ";" => return,
                "{" => {
                    let end = group_end(self.tokens, at) - 1;
                    let lines = self.tokens[end].line - self.tokens[start].line + 1;
                    self.source.functions.push(Function { name, lines });
                    return;
                }
                "(" | "[" => at = group_end(self.tokens, at),
                _ => at += 1,
            }
        }
    }

    fn inline_path(&mut self) {
        let line = self.tokens[self.at].line;
        let mut names = vec![self.text(0)];
        while self.text(1) == "::" && self.tokens.get(self.at + 2).is_some_and(|token| token.kind == Kind::Word) {
            self.at += 2;
            names.push(self.text(0));
        }
        self.at += 1;
        self.source.paths.push(Path { names, alias: None, line, scope: self.scope() });
    }

    fn use_item(&mut self) {
        self.at += 1;
        self.use_tree(&[]);
    }

    /// Reads one tree of a `use` item, up to the `,`, `}` or `;` after it.
    fn use_tree(&mut self, prefix: &[&'a str]) {
        let mut names = prefix.to_vec();
        let mut alias = None;
        loop {
            let line = self.tokens.get(self.at).map_or(0, |token| token.line);
            match self.text(0) {
                "{" => {
                    while !["}", ""].contains(&self.text(0)) {
                        self.at += 1;
                        self.use_tree(&names);
                    }
                    self.at += 1;
                    return;
                }
                "as" => {
                    alias = Some(self.text(1));
                    self.at += 2;
                }
                // A path that begins with `::` is external: an empty name stands for that.
                "::" if names.is_empty() => {
                    names.push("");
                    self.at += 1;
                }
                "::" | "*" => {
                    alias = if self.text(0) == "*" { Some("*") } else { None };
                    self.at += 1;
                }
                "," | "}" | ";" | "" => {
                    if names.len() > prefix.len() || alias.is_some() {
                        // `a::{self}` names `a`.
                        names.pop_if(|name| *name == "self" && !prefix.is_empty());
                        let alias = alias.or(names.last().copied()).filter(|alias| !["_", "*"].contains(alias));
                        self.source.paths.push(Path { names, alias, line, scope: self.scope() });
                    }
                    return;
                }
                name => {
                    names.push(name);
                    self.at += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows each path of `text`, with the name that it brings into scope.
    #[track_caller]
    fn check_paths(text: &str, expected: &[&str]) {
        let source = Source::parse(text);
        let shown: Vec<String> = source
            .paths
            .iter()
            .map(|path| {
                let scope = path.scope.iter().map(|name| format!("{name}> ")).collect::<String>();
                let alias = path.alias.map(|alias| format!(" as {alias}")).unwrap_or_default();
                format!("{scope}{}{alias}", path.names.join("::"))
            })
            .collect();
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn use_items_name_each_of_their_paths() {
        check_paths("use a;", &["a as a"]);
        check_paths("pub(crate) use crate::a::B;", &["crate::a::B as B"]);
        check_paths(
            "use super::{a, b::{self, C as D, E as _}, f::*};",
            &["super::a as a", "super::b as b", "super::b::C as D", "super::b::E", "super::f"],
        );
        check_paths("use a::{\n    b,\n    // c,\n    d::e,\n};\nuse f;", &["a::b as b", "a::d::e as e", "f as f"]);
        check_paths("use self::a as b;\nuse super::*;", &["self::a as b", "super"]);
        check_paths("use ::std::fs;", &["::std::fs as fs"]);
        check_paths("use a::{};\nuse {b, c::{d}};", &["b as b", "c::d as d"]);
    }

    #[test]
    fn paths_in_code_are_found() {
        check_paths(
            "fn f(a: &crate::b::C) { super::d::e::<T>(self::g::H { i: 1 }, \"x::y\") }",
            &["crate::b::C", "super::d::e", "self::g::H"],
        );
        check_paths("a::<B>::c(); <d::E as f::G>::H::i", &["a", "d::E", "f::G"]);
        check_paths("m!(crate::a::b, 'x'); x.a::<T>()", &["crate::a::b", "a"]);
        check_paths("// a::b\n/* c::d */ ::e::f; pub(in crate::g) h: i,", &[]);
        check_paths("fn f() -> impl Read + use<> {} fn g() {}", &[]);
    }

    #[test]
    fn inline_modules_are_the_scope_of_their_paths() {
        check_paths("mod a { use super::b; mod c { d::e() } } f::g()", &["a> super::b as b", "a> c> d::e", "f::g"]);
        let source = Source::parse("mod a; pub(crate) mod b { mod c; } mod d;");
        let modules: Vec<(String, bool)> =
            source.modules.iter().map(|module| (module.path.join("::"), module.is_inline)).collect();
        let expected = [("a", false), ("b", true), ("b::c", false), ("d", false)];
        assert_eq!(modules, expected.map(|(path, is_inline)| (path.to_owned(), is_inline)));
    }

    #[test]
    fn items_for_tests_are_left_out() {
        check_paths("#[cfg(test)]\nuse a::{b, c};\nuse d;", &["d as d"]);
        check_paths("#[cfg(test)]\n#[expect(x)]\nmod tests { use super::*; fn f() { a::b() } }\nuse c;", &["c as c"]);
        check_paths("#[cfg(all(test, unix))] mod tests { use a; } #[cfg(test)] mod more;\nuse b;", &["b as b"]);
        check_paths(
            "#[cfg(test)] const A: [u8; 2] = [b::C; 2]; #[cfg(test)] fn d(e: [u8; 1]) { f::g() } h::i",
            &["h::i"],
        );
        check_paths("struct A { #[cfg(test)] b: c::D, } struct E(f::G);", &["f::G"]);
        check_paths("#[cfg(not(test))] use a; #[cfg(any(test, fuzzing))] use b;", &["a as a", "b as b"]);
        let source = Source::parse("fn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n\nfn h() {}\n");
        assert_eq!(source.lines, 4);
        assert_eq!(source.functions.len(), 2);
        assert!(source.words.iter().all(|word| word.text != "tests"));
    }

    #[test]
    fn functions_are_measured_from_their_keyword_to_the_closing_brace() {
        let text = "/// Doc.\nfn a(\n    b: [u8; 2],\n) -> u8 {\n    { 1 }\n}\ntrait T { fn c(&self); fn d(&self) {} }\nlet e: fn() = f;";
        let functions = Source::parse(text).functions;
        assert_eq!(functions, [Function { name: "a", lines: 5 }, Function { name: "d", lines: 1 }]);
        let nested = Source::parse("fn a() {\n    fn b() {\n    }\n    || {\n    };\n}").functions;
        assert_eq!(nested, [Function { name: "a", lines: 6 }, Function { name: "b", lines: 2 }]);
    }
}
