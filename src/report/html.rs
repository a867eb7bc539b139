//! A report as one page: nothing to run, nothing to fetch.

use super::draw::{WIDTH, escape, place};
use super::{Cell, Figure, Report, Section, Table, Tone, numbers, palette};
use std::fmt::Write;

/// Scrolling boxes are reached with the keyboard.
const BOX: &str = r#"tabindex="0" role="region""#;

impl Report {
    /// The report as a page of HTML that stands alone.
    pub fn html(&self) -> String {
        let title = if self.title.trim().is_empty() { "Report" } else { &self.title };
        let mut page = Page::default();
        page.say(&format!("<h1>{}</h1>\n<div class=\"lead\">\n", escape(title)));
        page.paragraphs(&self.lead);
        page.say("</div>\n");
        if !self.facts.is_empty() {
            page.say("<dl>\n");
            for (name, value) in &self.facts {
                page.say(&format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value)));
            }
            page.say("</dl>\n");
        }
        if self.sections.len() > 3 {
            page.say("<nav aria-label=\"Contents\"><ol>\n");
            for (i, s) in self.sections.iter().enumerate() {
                page.say(&format!("<li><a href=\"#s{}\">{}</a></li>\n", i + 1, escape(&s.title)));
            }
            page.say("</ol></nav>\n");
        }
        for (i, section) in self.sections.iter().enumerate() {
            page.section(i + 1, section);
        }
        if !self.replay.is_empty() {
            let commands = escape(&self.replay.join("\n"));
            page.say("<section aria-labelledby=\"replay\">\n<h2 id=\"replay\">Do it again</h2>\n");
            page.say(&format!(
                "<pre {BOX} aria-label=\"Commands\"><code>{commands}</code></pre>\n</section>\n"
            ));
        }
        let style = include_str!("page.css").replace("DARK", &palette::variables(true));
        let (light, drawing) = (palette::variables(false), palette::DRAWING);
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
             <link rel=\"icon\" href=\"data:,\">\n<title>{}</title>\n\
             <style>\n:root {{ {light} }}\n{style}{drawing}\n</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
            escape(title),
            page.text
        )
    }
}

/// The page under way, with what it has counted.
#[derive(Default)]
struct Page {
    text: String,
    figures: usize,
    tables: usize,
}

impl Page {
    fn say(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn paragraphs(&mut self, paragraphs: &[String]) {
        for p in paragraphs {
            self.say(&format!("<p>{}</p>\n", prose(p)));
        }
    }

    fn section(&mut self, i: usize, section: &Section) {
        self.say(&format!(
            "<section id=\"s{i}\" aria-labelledby=\"s{i}h\">\n<h2 id=\"s{i}h\">{}</h2>\n",
            escape(&section.title)
        ));
        self.paragraphs(&section.text);
        for f in &section.figures {
            self.figure(f);
        }
        for t in &section.tables {
            self.tables += 1;
            let name = format!("Table {}. ", self.tables);
            let caption = format!("<div class=\"caption\"><b>{name}</b>{}</div>\n", prose(&t.caption));
            self.say(&format!("<div class=\"table\">\n{caption}"));
            self.table(t, &format!("{name}{}", t.caption));
            self.say("</div>\n");
        }
        if let Some(d) = &section.details {
            let (summary, text) = (escape(&d.summary), escape(&d.text));
            self.say(&format!("<details><summary>{summary}</summary>\n<pre {BOX} aria-label=\"{summary}\">{text}</pre></details>\n"));
        }
        self.say("</section>\n");
    }

    fn figure(&mut self, figure: &Figure) {
        self.figures += 1;
        let n = self.figures;
        let drawing = figure.draw(&format!("f{n}"));
        let table = numbers::of(figure);
        let (title, height) = (escape(figure.title()), place(drawing.height));
        let text = if figure.caption().is_empty() {
            String::new()
        } else {
            format!(" <span>{}</span>", prose(figure.caption()))
        };
        // What reads on has an end.
        let stop = if figure.title().ends_with(|c: char| c.is_alphanumeric() || c == ')') { "." } else { "" };
        let caption = format!("<b>Figure {n}. {}{stop}</b>{text}", prose(figure.title()));
        self.say(&format!("<figure id=\"f{n}\">\n<figcaption>{caption}</figcaption>\n"));
        self.say(&format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\" aria-describedby=\"f{n}d\" \
             xmlns=\"http://www.w3.org/2000/svg\"><desc id=\"f{n}d\">{}</desc>{}</svg>\n",
            escape(&description(figure)),
            drawing.body
        ));
        self.say("<details><summary>The numbers</summary>\n");
        self.table(&table, &format!("The numbers of figure {n}"));
        self.say("</details>\n</figure>\n");
    }

    fn table(&mut self, table: &Table, name: &str) {
        let columns = table.rows.iter().map(Vec::len).chain([table.head.len()]).max().unwrap_or(0);
        let number = |c: usize| {
            let mut cells = table.rows.iter().filter_map(|r| r.get(c)).peekable();
            cells.peek().is_some() && cells.all(|c| c.number || c.text.is_empty())
        };
        self.say(&format!("<div class=\"scroll\" {BOX} aria-label=\"{}\">\n<table>\n", escape(name)));
        if table.head.iter().any(|h| !h.is_empty()) {
            self.say("<thead><tr>");
            for c in 0..columns {
                let class = if number(c) { " class=\"num\"" } else { "" };
                let head = table.head.get(c).map_or("", String::as_str);
                // A column of names needs no name.
                let head = if head.is_empty() {
                    format!("<td{class}></td>")
                } else {
                    format!("<th scope=\"col\"{class}>{}</th>", prose(head))
                };
                self.say(&head);
            }
            self.say("</tr></thead>\n");
        }
        self.say("<tbody>\n");
        for row in &table.rows {
            self.say("<tr>");
            for c in 0..columns {
                self.cell(c, row.get(c).unwrap_or(&Cell::default()));
            }
            self.say("</tr>\n");
        }
        self.say("</tbody>\n</table>\n</div>\n");
        if let Some(note) = &table.note {
            self.say(&format!("<p class=\"note\">{}</p>\n", prose(note)));
        }
    }

    fn cell(&mut self, column: usize, cell: &Cell) {
        // What a colour says is said aloud as well.
        let (tone, aloud) = match cell.tone {
            Tone::Plain => ("", ""),
            Tone::Strong => ("strong", ""),
            Tone::Good => ("good", "<span class=\"hidden\"> (good)</span>"),
            Tone::Bad => ("bad", "<span class=\"hidden\"> (bad)</span>"),
            Tone::Muted => ("muted", ""),
        };
        let classes = [if cell.number { "num" } else { "" }, tone].join(" ");
        let class =
            if classes.trim().is_empty() { String::new() } else { format!(" class=\"{}\"", classes.trim()) };
        let (open, close) = if column == 0 { ("th scope=\"row\"", "th") } else { ("td", "td") };
        let _ = write!(self.text, "<{open}{class}>{}{aloud}</{close}>", prose(&cell.text));
    }
}

/// Text with `code` between backticks.
fn prose(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return escape(text);
    }
    let mark = |(i, part): (usize, &&str)| {
        let part = escape(part);
        if i % 2 == 1 { format!("<code>{part}</code>") } else { part }
    };
    parts.iter().enumerate().map(mark).collect()
}

/// What a chart is made of, for those who do not see it.
fn description(figure: &Figure) -> String {
    let names = |names: &mut dyn Iterator<Item = &String>| names.cloned().collect::<Vec<_>>().join("; ");
    match figure {
        Figure::Bars(b) => format!(
            "Bars of {} by group. Series: {}. Marks: {}. Groups: {}. The numbers are in the table below.",
            b.axis,
            names(&mut b.series.iter()),
            names(&mut b.marks.iter()),
            names(&mut b.groups.iter().map(|g| &g.label))
        ),
        Figure::Lines(l) => format!(
            "Curves of {} over {}. Series: {}. Lines to compare with: {}. The numbers are in the table below.",
            l.y.title,
            l.x.title,
            names(&mut l.series.iter().map(|s| &s.name)),
            names(&mut l.levels.iter().map(|l| &l.name))
        ),
    }
}
