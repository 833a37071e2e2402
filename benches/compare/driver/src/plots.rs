//! The plots, as SVG. A plot whose rows weren't run isn't drawn.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::report::{ACTIVE, Curve, LINK, SHARED, Spread};
use crate::run::Outcome;
use crate::{Measured, number};

type Drawn = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Returns a program's colour. Our program has a strong colour. A peer has the same colour in every
/// plot.
fn colour(program: &str) -> RGBColor {
    match program {
        name if name.starts_with("ours") => RGBColor(200, 55, 45),
        name if name.starts_with("Go smux") => RGBColor(45, 110, 180),
        name if name.starts_with("hashicorp") => RGBColor(90, 160, 200),
        name if name.starts_with("async_smux") => RGBColor(60, 140, 80),
        name if name.starts_with("yamux") => RGBColor(150, 130, 50),
        name if name.starts_with("smux_rust") => RGBColor(130, 90, 160),
        _ => RGBColor(130, 130, 130),
    }
}

/// Draws the plots whose rows were run, and returns Markdown that shows them.
pub fn draw(
    measured: &[Measured],
    extras: &BTreeMap<String, Outcome>,
    to: &Path,
) -> Result<String, Box<dyn Error>> {
    let row = |id: &str| measured.iter().find(|one| one.row.id == id);
    let has = |prefix: &str| extras.keys().any(|name| name.starts_with(prefix));
    let mut shown = String::new();
    let mut drawn = |name: &str, what: &str| {
        let _ = writeln!(shown, "![{what}](plots/{name}.svg)");
        to.join(name).with_extension("svg")
    };
    let bulk: Vec<_> = ["bulk1", "bulk1v2", "bulk16"].into_iter().filter_map(row).collect();
    if !bulk.is_empty() {
        bars(&bulk, &drawn("bulk", "Bulk throughput"))?;
    }
    if let Some(one) = row("pingload") {
        latency(one, &drawn("latency", "Ping beside bulk"))?;
    }
    if has("curve") {
        bandwidth(extras, &drawn("bandwidth", "A shared link over time"))?;
    }
    if has("memory") {
        memory(extras, &drawn("memory", "Memory by streams"))?;
    }
    if has("active") {
        scale(extras, &drawn("scale", "Throughput by active streams"))?;
    }
    Ok(if shown.is_empty() { shown } else { format!("\n## Plots\n\n{shown}") })
}

fn area(path: &Path, size: (u32, u32)) -> Result<Area<'_>, Box<dyn Error>> {
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    Ok(area)
}

/// A block of bars for each row.
fn bars(rows: &[&Measured], path: &Path) -> Drawn {
    const BAR: i32 = 24;
    const LEFT: i32 = 170;
    const WIDE: f64 = 480.0;
    let height: usize = rows.iter().map(|one| (one.outcomes.len() + 2) * BAR as usize).sum();
    let root = area(path, (800, height as u32 + 10))?;
    let medians = |one: &Measured| -> Vec<(String, Option<f64>)> {
        let metric = &one.row.metrics[0];
        let median = |name: &str| Spread::of(one.values(name, metric)).map(|spread| spread.median);
        one.outcomes
            .iter()
            .map(|(program, _)| (program.name.clone(), median(&program.name)))
            .collect()
    };
    let most =
        rows.iter().flat_map(|one| medians(one)).filter_map(|(_, value)| value).fold(0.1, f64::max);
    let mut y = 10;
    for one in rows {
        root.draw(&Text::new(
            format!("{}, GB/s", one.row.title),
            (10, y),
            ("sans-serif", 16).into_font(),
        ))?;
        y += BAR;
        for (name, value) in medians(one) {
            let end = LEFT + (value.unwrap_or(0.0) / most * WIDE) as i32;
            root.draw(&Rectangle::new(
                [(LEFT, y + 2), (end, y + BAR - 4)],
                colour(&name).filled(),
            ))?;
            root.draw(&Text::new(name, (20, y + 4), ("sans-serif", 14).into_font()))?;
            let shown = value.map_or("no result".to_owned(), |value| format!("{value:.2}"));
            root.draw(&Text::new(shown, (end + 6, y + 4), ("sans-serif", 14).into_font()))?;
            y += BAR;
        }
        y += BAR;
    }
    root.present()?;
    Ok(())
}

/// Names its quantiles in the order of the x axis.
const QUANTILES: [&str; 9] = ["p1", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "p999"];

fn latency(one: &Measured, path: &Path) -> Drawn {
    let root = area(path, (800, 460))?;
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("{}: how long round trips take", one.row.title), ("sans-serif", 16))
        .margin(12)
        .margin_right(30)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..8.0, (10f64..100_000f64).log_scale())?;
    chart
        .configure_mesh()
        .x_labels(9)
        .x_label_formatter(&|x: &f64| {
            QUANTILES.get(x.round() as usize).map_or(String::new(), |&name| name.to_owned())
        })
        .x_desc("quantile")
        .y_desc("µs")
        .draw()?;
    for (program, results) in &one.outcomes {
        let point = |(index, name): (usize, &&str)| {
            let values = results
                .iter()
                .filter_map(|result| number(result.as_ref().ok()?, &[name]))
                .collect();
            Some((index as f64, Spread::of(values)?.median))
        };
        let line: Vec<_> = QUANTILES.iter().enumerate().filter_map(point).collect();
        if line.is_empty() {
            continue;
        }
        let colour = colour(&program.name);
        let style = colour.stroke_width(if program.is_ours() { 3 } else { 1 });
        chart
            .draw_series(LineSeries::new(line, style))?
            .label(&program.name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

/// Draws a panel for each number of streams. Each stream has two lines: a pale one for its samples,
/// and a strong one for their mean over 100 ms.
fn bandwidth(extras: &BTreeMap<String, Outcome>, path: &Path) -> Drawn {
    let root = area(path, (800, 720))?;
    for (panel, streams) in root.split_evenly((3, 1)).iter().zip(SHARED) {
        let Some(curve) = Curve::of(extras, streams) else { continue };
        let share = LINK / streams as f64;
        let last = curve.times.last().copied().unwrap_or(1.0);
        let plural = if streams == 1 { "" } else { "s" };
        let title = format!(
            "{streams} stream{plural} on a link of 125 MB/s: MB/s of each, every 20 ms (pale) and \
             over 100 ms"
        );
        let mut chart = ChartBuilder::on(panel)
            .caption(title, ("sans-serif", 15))
            .margin(8)
            .margin_right(24)
            .x_label_area_size(28)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..last, 0.0..share * 3.0)?;
        chart.configure_mesh().y_labels(5).x_desc("s").draw()?;
        for pale in [true, false] {
            for index in 0..streams {
                let hue = HSLColor(index as f64 / streams as f64, 0.6, 0.45);
                let style = if pale { hue.mix(0.2) } else { hue.mix(1.0) }.stroke_width(1);
                let rates = curve.averaged(if pale { 1 } else { 5 });
                let line: Vec<_> = rates
                    .iter()
                    .map(|(time, rates)| (*time, rates[index].min(share * 3.0)))
                    .collect();
                chart.draw_series(LineSeries::new(line, style))?;
            }
        }
        chart.draw_series(LineSeries::new([(0.0, share), (last, share)], BLACK.stroke_width(1)))?;
    }
    root.present()?;
    Ok(())
}

fn memory(extras: &BTreeMap<String, Outcome>, path: &Path) -> Drawn {
    let root = area(path, (800, 400))?;
    let lines = ["ours", "Go smux"].map(|program| {
        let point = |streams: u32| {
            let result = extras.get(&format!("memory {program} {streams}"))?.as_ref().ok()?;
            let at = |end| number(result, &[end, "used"]);
            Some((f64::from(streams), at("server")?.max(at("client")?) * f64::from(streams) / 1e6))
        };
        let line: Vec<_> = [1000, 5000, 10_000, 20_000].into_iter().filter_map(point).collect();
        (program, line)
    });
    let most = lines.iter().flat_map(|(_, line)| line).map(|&(_, mb)| mb).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "Memory of idle streams after a ping on each, one end (the worse)",
            ("sans-serif", 16),
        )
        .margin(12)
        .margin_right(30)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..20_000.0, 0.0..most * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("streams")
        .y_desc("MB")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()?;
    for (program, line) in lines {
        let style = colour(program).stroke_width(2);
        chart
            .draw_series(LineSeries::new(line, style).point_size(3))?
            .label(program)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

fn scale(extras: &BTreeMap<String, Outcome>, path: &Path) -> Drawn {
    let root = area(path, (800, 400))?;
    let lines = [1, 2].map(|version| {
        let point = |streams: u32| {
            let result =
                extras.get(&format!("active v{version} streams={streams}"))?.as_ref().ok()?;
            Some((f64::from(streams), number(result, &["bytes_per_s"])? / 1e9))
        };
        (version, ACTIVE.into_iter().filter_map(point).collect::<Vec<_>>())
    });
    let most = lines.iter().flat_map(|(_, line)| line).map(|&(_, rate)| rate).fold(0.1, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption("Throughput of one session, by its active streams", ("sans-serif", 16))
        .margin(12)
        .margin_right(30)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d((1f64..10_000f64).log_scale(), 0.0..most * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("active streams")
        .y_desc("GB/s")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()?;
    for (version, line) in lines {
        let style = if version == 1 { colour("ours") } else { colour("Go smux") }.stroke_width(2);
        chart
            .draw_series(LineSeries::new(line, style).point_size(3))?
            .label(format!("version {version}"))
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}
