"""The plots of a page as Vega-Lite, without their numbers, and the JavaScript that draws them, without a network."""

from functools import cache
from typing import Any

from benchmark.metrics.leak import LEAKED_PSNR
from benchmark.report.curves import THRESHOLDS
from benchmark.report.tradeoff import HEIGHT

INK = {"labelColor": "currentColor", "titleColor": "currentColor"}
FAINT = {"domainColor": "currentColor", "tickColor": "currentColor", "gridColor": "#8884"}
"""The text's own color, so that plots are legible on light and dark pages."""

NEAREST = (
    "{defense: (datum.datum || datum).defense, dB: (datum.datum || datum).threshold, "
    "'leak rate': format((datum.datum || datum).rate, '.2f'), 'other lines here': (datum.datum || datum).here - 1}"
)
"""What is said of the point nearest to the pointer, which Vega-Lite has in another place than one under it, but takes a
text from the wrong one."""


@cache
def specs() -> dict[str, dict[str, Any]]:
    """The plots, by name: each takes the curves of :mod:`benchmark.report.curves`, or the points of a trade-off."""
    import altair as alt  # a second, for which only a page waits

    share = alt.Axis(format=".0%")
    whole = alt.Scale(domain=[0, 1])
    values = alt.InlineData(values=[])
    decibels = alt.Scale(domain=[THRESHOLDS[0], THRESHOLDS[-1]])

    picked = alt.param(name="picked", value="", bind=alt.binding_select(options=[""], name="Defense: "))
    nearest = alt.selection_point(
        name="near", fields=["defense"], on="pointerover", clear="pointerout", nearest=True, empty=False
    )
    stands_out: Any = {"test": {"or": [{"param": nearest.name, "empty": False}, f"datum.defense === {picked.name}"]}}
    step = alt.Chart().encode(
        x=alt.X("threshold:Q", title="PSNR threshold in dB", scale=decibels),
        y=alt.Y("rate:Q", title="victims that leak", axis=share, scale=whole),
    )
    rates = (
        alt.layer(
            step.mark_line(interpolate="step-before").encode(
                color=alt.Color("defense:N", title=None, sort=None),
                strokeDash=alt.StrokeDash("defense:N", title=None, sort=None),
                strokeWidth=alt.condition(stands_out, alt.value(4), alt.value(1.5)),
                opacity=alt.condition(stands_out, alt.value(1), alt.value(alt.expr(f"{picked.name} ? 0.15 : 0.7"))),
            ),
            step.transform_joinaggregate(here="count()", groupby=["threshold", "rate"])
            .mark_point(opacity=0, filled=True, tooltip=alt.expr(NEAREST))
            .add_params(nearest),
            alt.Chart()
            .mark_rule(strokeDash=[2, 3], color="currentColor", opacity=0.6)
            .encode(x=alt.datum(LEAKED_PSNR)),
            data=values,
        )
        .add_params(picked)
        .properties(height=260, width="container")
    )

    base = alt.Chart().encode(x=alt.X("evaluations:Q", title="gradient evaluations"))
    numbers = ["evaluations:Q", *(alt.Tooltip(f"{name}:Q", format=".3g") for name in ("low", "loss", "high"))]
    losses = {
        name: alt.layer(
            base.mark_area(opacity=0.25, color="#3b7dd8").encode(y=alt.Y("low:Q", title="loss", scale=of), y2="high:Q"),
            base.mark_line(color="#3b7dd8").encode(y=alt.Y("loss:Q", title="loss", scale=of), tooltip=numbers),
            data=values,
        ).properties(height=180, width="container")
        for name, of in {"losses": alt.Scale(type="log"), "signed_losses": alt.Scale(type="symlog")}.items()
    }

    lost = alt.Axis(values=[-2, -1, 0, 1, 2, 5, 10, 20, 50, 100])
    near = alt.Scale(type="symlog", reverse=True, zero=False, nice=False, padding=15)
    many = alt.Scale(scheme="tableau20")

    def x(name: str) -> alt.X:
        return alt.X(f"{name}:Q", title="points of accuracy below the best", axis=lost, scale=near)

    def y(name: str) -> alt.Y:
        return alt.Y(f"{name}:Q", title="victims that leak, worst case", axis=share, scale=whole)

    tips = ["name:N", alt.Tooltip("accuracy:Q", format=".3f"), alt.Tooltip("leak:Q", format=".2f"), "standing:N"]
    at = {"x": x("lost"), "y": y("leak")}
    trade_off = alt.layer(
        alt.Chart()
        .transform_filter("datum.front")
        .mark_line(interpolate="step-before", color="currentColor", strokeWidth=1.5)
        .encode(**at, order="accuracy:Q"),
        alt.Chart()
        .mark_rule(color="currentColor", opacity=0.35)
        .encode(x=x("lost_low"), x2="lost_high:Q", y=y("leak")),
        alt.Chart()
        .mark_rule(color="currentColor", opacity=0.35)
        .encode(x=x("lost"), y=y("leak_low"), y2="leak_high:Q"),
        alt.Chart()
        .mark_point(filled=True, size=80)
        .encode(
            **at,
            color=alt.Color("defense:N", title=None, sort=None, scale=many),
            shape=alt.Shape("defense:N", title=None, sort=None),
            opacity=alt.condition("datum.front", alt.value(1), alt.value(0.6)),
            tooltip=tips,
        ),
        alt.Chart()
        .mark_text(
            align=alt.expr("datum.align"), dx=alt.expr("datum.dx"), dy=alt.expr("datum.dy"), color="currentColor"
        )
        .encode(**at, text="label:N"),
        data=values,
    ).properties(height=HEIGHT, width="container")

    charts = {"rates": rates, **losses, "trade_off": trade_off}
    plots = {
        name: chart.configure(background="transparent", font="inherit")
        .configure_view(stroke=None)
        .configure_axis(**INK, **FAINT)
        .configure_legend(**INK, orient="bottom", symbolLimit=0)
        .to_dict()
        for name, chart in charts.items()
    }
    for plot in plots.values():
        del plot["$schema"]  # an address, of which a page has none
    return plots


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script; takes eight seconds the first time."""
    import altair as alt
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return script.replace("</script", r"<\/script")
