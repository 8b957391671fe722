//! `range` as Go has it. The crate goes through a map in any order, and carries out the `else` of a range
//! that had something, too; so its templates get this said in words that it has.

use super::template::{declared, parts, rewritten, words};

/// What is open: it ends with `end`.
#[derive(PartialEq)]
enum Open {
    Range,
    /// The `else` of one.
    Else,
    Other,
}

/// The template with its ranges going over lists, in the order of the keys, and within an `if` that has
/// their `else`.
pub(super) fn in_order(template: &str) -> String {
    let mut open = Vec::new();
    rewritten(template, |action| {
        let (body, dash) = parts(action);
        let (start, word) = words(body);
        let mark = &body[..body.len() - start.len()];
        match word {
            "range" => {
                open.push(Open::Range);
                return format!("{mark}{}{dash}", range(&start["range".len()..]));
            }
            "if" | "with" | "define" | "block" => open.push(Open::Other),
            "else" if open.last() == Some(&Open::Range) => {
                open.pop();
                open.push(Open::Else);
                return format!("{mark}end}}}}{{{{else{dash}");
            }
            "end" if open.pop() == Some(Open::Range) => {
                return format!("{mark}end}}}}{{{{end{dash}");
            }
            _ => {}
        }
        action.to_owned()
    })
}

/// The `if` and the range for what stands behind `range`.
fn range(rest: &str) -> String {
    let (names, pipe) = declared(rest.trim()).unwrap_or((Vec::new(), rest.trim()));
    let check = format!("if {pipe} | sortedValues");
    match names.as_slice() {
        [] => format!("{check}}}}}{{{{range {pipe} | sortedValues"),
        // Of a list, the crate gives the number of an element: that of its key.
        [key, value] => format!(
            "{check}}}}}{{{{$sortedKeys := {pipe} | sortedKeys}}}}\
             {{{{range {key}, {value} := {pipe} | sortedValues}}}}\
             {{{{{key} := index $sortedKeys {key}"
        ),
        names => format!(
            "{check}}}}}{{{{range {} := {pipe} | sortedValues",
            names.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::one;
    use serde_json::json;

    #[test]
    fn maps_go_by_their_keys() {
        let object = json!({
            "Labels": {"d": "4", "b": "2", "a": "1", "e": "5", "c": "3"},
            "Cmd": ["x", "y"], "Env": [], "Volumes": null, "None": null,
            "Ports": {"9": [{"P": 1}, {"P": 2}], "8": []},
        });
        for (template, expected) in [
            (
                "{{range $k,$v := .Labels}}{{$k}}{{$v}} {{end}}",
                "a1 b2 c3 d4 e5 ",
            ),
            (
                "{{range $k, $_ := .Labels}}{{$k}}{{.}}{{end}}",
                "a1b2c3d4e5",
            ),
            ("{{range .Labels}}{{.}}{{end}}", "12345"),
            ("{{range $v := .Labels}}{{$v}}{{end}}", "12345"),
            (
                "<{{- range $k, $v := .Labels -}} {{$k}} {{- end -}} >",
                "<abcde>",
            ),
            ("{{range $i, $c := .Cmd}}{{$i}}={{$c}} {{end}}", "0=x 1=y "),
            (
                "{{range $k, $v := .Ports}}{{$k}}:{{range $i, $p := $v}}{{$k}}{{$i}}{{.P}} \
                 {{else}}none {{end}}{{end}}",
                "8:none 9:901 912 ",
            ),
            ("{{range .Cmd}}{{.}}{{else}}none{{end}}", "xy"),
            (
                "{{range .Cmd}}{{if eq . \"x\"}}1{{else}}2{{end}}{{else}}none{{end}}",
                "12",
            ),
            ("{{range .Env}}{{.}}{{- else -}} none {{- end}}", "none"),
            (
                "{{range .None}}x{{else}}none{{end}}{{range .Volumes}}x{{end}}",
                "none",
            ),
            ("{{range split \"a,b\" \",\"}}{{.}}.{{end}}", "a.b."),
            ("{{$x:=.Cmd}}{{range $x}}{{.}}{{end}}", "xy"),
        ] {
            assert_eq!(one(template, &object).unwrap(), expected, "{template}");
        }
    }
}
