//! The view in a terminal, and the keys that change it.

use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use jiff::Timestamp;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::EnterAlternateScreen;
use ratatui::layout::{Constraint, Layout, Rect, Size};
use ratatui::style::{Color, Modifier, Style as Look};
use ratatui::text::{Line as Shown, Span};
use ratatui::widgets::{Paragraph, Wrap};
use ratatui::{DefaultTerminal, Frame, TerminalOptions, Viewport};

use super::reading::Reading;
use super::table::{Line, Order, Table};
use super::view::{SLOWEST, State, View};
use super::wrong::Wrong;
use crate::cli::colour::Style;
use crate::cli::failure::Failure;

/// How long a key or an answer may wait until it is seen.
const TICK: Duration = Duration::from_millis(100);

/// The most columns and lines that are drawn. A terminal may claim to have any number, and each place takes memory.
const LARGEST: Size = Size::new(1024, 512);

/// News for the view.
pub enum Update {
    /// What the server with this number answered.
    Answer(usize, Result<Reading, String>),
    /// The process shall end.
    Stop,
}

/// What the user chose.
#[derive(Clone, Debug)]
pub struct Screen {
    interval: Duration,
    colours: bool,
    /// The orders of the servers and of the policies.
    orders: [Order; 2],
    /// The table whose order the keys change.
    chosen: usize,
}

/// Shows the servers until the user has had enough.
pub fn run(screen: Screen, mut state: State, updates: &Receiver<Update>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot use the terminal: {error}"));
    let done =
        begin().and_then(|(mut terminal, area)| watch(&mut terminal, area, screen, &mut state, updates));
    done.and(ratatui::try_restore()).map_err(failed)
}

/// Takes the terminal, and returns it with the area that is drawn.
fn begin() -> std::io::Result<(DefaultTerminal, Rect)> {
    let (width, height) = ratatui::crossterm::terminal::size()?;
    let area = drawn_area(Size { width, height });
    // A view of the full screen would take memory for what the terminal claims before any bound is set.
    let terminal = ratatui::try_init_with_options(TerminalOptions { viewport: Viewport::Fixed(area) })?;
    execute!(std::io::stdout(), EnterAlternateScreen)?;
    Ok((terminal, area))
}

/// Returns the area of a terminal that is drawn.
fn drawn_area(terminal: Size) -> Rect {
    Rect::new(0, 0, terminal.width.min(LARGEST.width), terminal.height.min(LARGEST.height))
}

fn watch(
    terminal: &mut DefaultTerminal,
    mut area: Rect,
    mut screen: Screen,
    state: &mut State,
    updates: &Receiver<Update>,
) -> std::io::Result<()> {
    loop {
        let now = Timestamp::now();
        let view = state.view(now);
        let now_drawn = drawn_area(terminal.size()?);
        if area != now_drawn {
            area = now_drawn;
            terminal.resize(area)?;
        }
        terminal.draw(|frame| screen.draw(frame, &view, now))?;
        // What is on the screen is drawn anew when something has changed.
        loop {
            let mut is_changed = false;
            loop {
                match updates.try_recv() {
                    Ok(Update::Answer(number, answer)) => state.note(number, answer),
                    Ok(Update::Stop) | Err(TryRecvError::Disconnected) => return Ok(()),
                    Err(TryRecvError::Empty) => break,
                }
                is_changed = true;
            }
            if event::poll(TICK)? {
                match event::read()? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => {
                        if !screen.press(key, &view) {
                            return Ok(());
                        }
                        is_changed = true;
                    }
                    Event::Resize(..) => is_changed = true,
                    _ => {}
                }
            }
            if is_changed {
                break;
            }
        }
    }
}

impl Screen {
    /// Creates the screen of servers that are asked this often.
    pub fn new(interval: Duration, colours: bool) -> Self {
        let slowest = Order { column: Some(SLOWEST), is_up: false, is_chosen: true };
        Self { interval, colours, orders: [Order::default(), slowest], chosen: 1 }
    }

    /// Obeys a key. Returns false if the user has had enough.
    fn press(&mut self, key: KeyEvent, view: &View) -> bool {
        let columns = [&view.servers, &view.policies][self.chosen].titles.len();
        let order = &mut self.orders[self.chosen];
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Left => {
                order.column = Some(order.column.map_or(0, |column| (column + columns - 1) % columns));
            }
            KeyCode::Right => order.column = Some(order.column.map_or(0, |column| (column + 1) % columns)),
            KeyCode::Up => order.is_up = true,
            KeyCode::Down => order.is_up = false,
            KeyCode::Tab | KeyCode::BackTab => {
                order.is_chosen = false;
                self.chosen = 1 - self.chosen;
                let order = &mut self.orders[self.chosen];
                order.is_chosen = true;
                if order.column.is_none() {
                    (order.column, order.is_up) = (Some(0), true);
                }
            }
            _ => {}
        }
        true
    }

    fn draw(&self, frame: &mut Frame<'_>, view: &View, now: Timestamp) {
        let width = usize::from(frame.area().width);
        let wrong = self.wrong(view);
        let of_servers = view.servers.rows.len() + usize::from(view.servers.total.is_some()) + 1;
        let places =
            |(server, wrong): &(String, Wrong)| Shown::raw(format!("{server}  {}", wrong.what)).width();
        let lines = view.wrong.iter().map(|wrong| places(wrong).div_ceil(width.max(1)));
        // Words that do not fit begin a line, so there may be some more.
        let wrong_height = lines.map(|lines| if lines > 1 { lines + 1 } else { 1 }).sum::<usize>().max(1) + 2;
        let [head, servers, policies, amiss, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(length(of_servers)),
            Constraint::Min(3),
            Constraint::Length(length(wrong_height).min(frame.area().height / 2)),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let title = format!(
            "kms top: {} every {}, {}",
            if view.servers.rows.len() == 1 {
                "1 server".to_owned()
            } else {
                format!("{} servers", view.servers.rows.len())
            },
            crate::cli::format::duration(u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX)),
            now.strftime("%H:%M:%S UTC"),
        );
        frame.render_widget(self.shown(vec![(Style::Strong, title)]), head);
        frame.render_widget(self.table(&view.servers, 0, width, usize::from(servers.height), false), servers);
        frame.render_widget(
            self.table(&view.policies, 1, width, usize::from(policies.height), true),
            policies,
        );
        frame.render_widget(wrong, amiss);
        let keys = "q quit   ←→ column   ↑↓ order   Tab table";
        frame.render_widget(self.shown(vec![(Style::Label, keys.to_owned())]), foot);
    }

    /// Returns as many rows of a table as there is room for.
    fn table(
        &self,
        table: &Table,
        number: usize,
        width: usize,
        height: usize,
        gap: bool,
    ) -> Paragraph<'static> {
        let mut lines = table.lines(self.orders[number], width);
        let room = height.saturating_sub(usize::from(gap));
        if lines.len() > room && room > 1 {
            let hidden = lines.len() - room + 1;
            lines.truncate(room - 1);
            lines.push(vec![(Style::Label, format!("… and {hidden} more"))]);
        }
        let mut shown: Vec<Shown<'static>> = Vec::new();
        if gap {
            shown.push(Shown::default());
        }
        shown.extend(lines.into_iter().map(|line| self.shown(line)));
        Paragraph::new(shown)
    }

    fn wrong(&self, view: &View) -> Paragraph<'static> {
        let mut shown = vec![Shown::default(), self.shown(vec![(Style::Label, "WRONG NOW".to_owned())])];
        if view.wrong.is_empty() {
            shown.push(self.shown(vec![(Style::Good, "nothing".to_owned())]));
        }
        for (server, wrong) in &view.wrong {
            let style = if wrong.is_bad { Style::Bad } else { Style::Doubtful };
            shown.push(self.shown(vec![(Style::Name, format!("{server}  ")), (style, wrong.what.clone())]));
        }
        Paragraph::new(shown).wrap(Wrap { trim: false })
    }

    fn shown(&self, line: Line) -> Shown<'static> {
        let look = |style| if self.colours { look(style) } else { Look::default() };
        line.into_iter().map(|(style, text)| Span::styled(text, look(style))).collect()
    }
}

fn length(lines: usize) -> u16 {
    u16::try_from(lines).unwrap_or(u16::MAX)
}

fn look(style: Style) -> Look {
    let look = Look::default();
    match style {
        Style::Header => look.add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
        Style::Label => look.add_modifier(Modifier::DIM),
        Style::Strong => look.add_modifier(Modifier::BOLD),
        Style::Name => look.fg(Color::Cyan),
        Style::Path => look.fg(Color::Blue),
        Style::Good => look.fg(Color::Green),
        Style::Bad => look.fg(Color::Red).add_modifier(Modifier::BOLD),
        Style::Doubtful => look.fg(Color::Yellow),
        Style::Plain => look,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::reading::Ready;
    use super::super::view::tests::reading;
    use super::*;

    /// Returns the view of a server under load, and of one that is away.
    fn view(now: Timestamp) -> View {
        let began = Instant::now();
        let mut state = State::new(["10.0.0.1:7373".to_owned(), "10.0.0.2:7373".to_owned()]);
        state.note(0, Ok(reading(began, 0, 0, "", Ready::Yes)));
        state.note(0, Ok(reading(began, 2, 2000, "kms_roots_closed 1\n", Ready::Yes)));
        state.note(1, Err("cannot connect to 10.0.0.2:7373: connection refused".to_owned()));
        state.view(now)
    }

    fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
        let now = "2026-12-01T12:00:00Z".parse().unwrap();
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame, &view(now), now)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect()
    }

    #[test]
    fn everything_has_its_place() {
        let screen = Screen::new(Duration::from_secs(2), true);
        assert_eq!(
            drawn(&screen, 100, 16),
            [
                "kms top: 2 servers every 2s, 12:00:00 UTC",
                "",
                "SERVER         REQ/S  4XX/S  5XX/S   P50    P99   HITS  KEYS  STORE/S  FAIL/S  UP",
                "10.0.0.1:7373   1000    0.0    0.0  51µs  100µs  99.0%    12       10     0.0  2s",
                "10.0.0.2:7373  no answer",
                "all             1000    0.0    0.0  51µs  100µs  99.0%    12       10     0.0   -",
                "",
                "POLICY        REQ/S    P50   P99▼",
                "re\\u{1b}port     10  5.1ms  9.9ms",
                "minio           990   50µs   99µs",
                "",
                "",
                "WRONG NOW",
                "10.0.0.1:7373  a root does not open the key store",
                "10.0.0.2:7373  cannot connect to 10.0.0.2:7373: connection refused",
                "q quit   ←→ column   ↑↓ order   Tab table",
            ]
        );
    }

    #[test]
    fn a_small_terminal_shows_what_matters_most() {
        let screen = Screen::new(Duration::from_secs(2), false);
        let lines = drawn(&screen, 40, 12);
        assert_eq!(lines[2], "SERVER         REQ/S  4XX/S  5XX/S   P50");
        assert!(lines.iter().any(|line| line.starts_with("… and 2 more")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("a root does not open")), "{lines:#?}");
        for (width, height) in [(1, 1), (3, 200), (200, 3)] {
            drawn(&screen, width, height);
        }
    }

    #[test]
    fn a_terminal_may_claim_any_size() {
        for ((width, height), expected) in [
            ((100, 24), (100, 24)),
            ((0, 0), (0, 0)),
            ((u16::MAX, 10), (1024, 10)),
            ((u16::MAX, u16::MAX), (1024, 512)),
        ] {
            let area = drawn_area(Size { width, height });
            assert_eq!((area.x, area.y, area.width, area.height), (0, 0, expected.0, expected.1));
        }
    }

    #[test]
    fn keys_choose_the_order() {
        let mut screen = Screen::new(Duration::from_secs(2), false);
        let view = view(Timestamp::now());
        let mut press = |code: KeyCode| {
            assert!(screen.press(KeyEvent::from(code), &view));
            drawn(&screen, 100, 16)
        };
        let lines = press(KeyCode::Up);
        assert!(lines[7].ends_with("P99▲") && lines[8].starts_with("minio"), "{lines:#?}");
        let lines = press(KeyCode::Right);
        assert!(lines[7].starts_with("POLICY▲") && lines[8].starts_with("minio"), "{lines:#?}");
        let lines = press(KeyCode::Down);
        assert!(lines[7].starts_with("POLICY▼") && lines[8].starts_with("re"), "{lines:#?}");
        let lines = press(KeyCode::Left);
        assert!(lines[7].ends_with("P99▼"), "{lines:#?}");
        let lines = press(KeyCode::Tab);
        assert!(lines[7].ends_with("P99▽") && lines[2].starts_with("SERVER▲"), "{lines:#?}");
        let lines = press(KeyCode::Down);
        assert!(lines[3].starts_with("10.0.0.2") && lines[5].starts_with("all"), "{lines:#?}");
        press(KeyCode::Char('x'));
        assert!(!screen.press(KeyEvent::from(KeyCode::Char('q')), &view));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(!screen.press(interrupt, &view));
    }
}
