"""The studio's Gradio theme: the same tokens as `assets/studio.css`, system fonts, light and dark."""

from __future__ import annotations

import gradio as gr

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "PingFang SC", "Microsoft YaHei", "sans-serif"]
MONO = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "Liberation Mono", "monospace"]
ACCENT = ("#EAEFFD", "#D6DFFB", "#B3C3F6", "#8FA9FF", "#5F80EA", "#2F55D4", "#2748B8", "#203B97", "#1C3280", "#182A69")
GRAY = ("#F8F9FB", "#F1F3F6", "#E2E5EA", "#CDD2DA", "#677182", "#677182", "#4E5766", "#272D36", "#15191F", "#11151A")
STEPS = ("c50", "c100", "c200", "c300", "c400", "c500", "c600", "c700", "c800", "c900")

BUTTONS = {
    "button_large_radius": "8px",
    "button_large_text_size": "13.5px",
    "button_large_padding": "8px 14px",
    "button_border_width": "1px",
    "button_primary_background_fill": "*primary_500",
    "button_primary_background_fill_dark": "*primary_300",
    "button_primary_background_fill_hover_dark": "#A9BCFF",
    "button_primary_text_color_dark": "#0D1220",
    "button_primary_border_color": "transparent",
    "button_primary_border_color_dark": "transparent",
    "button_secondary_background_fill": "white",
    "button_secondary_background_fill_dark": "#15191F",
    "button_secondary_background_fill_hover": "*neutral_50",
    "button_secondary_background_fill_hover_dark": "#1C222A",
    "button_secondary_border_color": "*neutral_300",
    "button_secondary_border_color_dark": "#3A424E",
    "button_secondary_text_color": "#161A21",
    "button_secondary_text_color_dark": "#E8EBF0",
}
INPUTS = {
    "input_background_fill": "white",
    "input_background_fill_dark": "#11151A",
    "input_border_width": "1px",
    "input_border_color": "*neutral_300",
    "input_border_color_dark": "#3A424E",
    "input_border_color_focus": "*primary_500",
    "input_border_color_focus_dark": "*primary_300",
    "input_radius": "8px",
    "input_padding": "8px 12px",
    "checkbox_label_background_fill": "transparent",
    "checkbox_label_background_fill_dark": "transparent",
    "checkbox_label_border_color": "*neutral_300",
    "checkbox_label_border_color_dark": "#3A424E",
    "checkbox_label_border_width": "1px",
    "checkbox_label_background_fill_selected": "#EAEFFD",
    "checkbox_label_background_fill_selected_dark": "#1C2540",
    "checkbox_background_color_selected_dark": "*primary_300",
    "slider_color_dark": "*primary_300",
}
SURFACES = {
    "body_background_fill": "#F5F6F8",
    "body_background_fill_dark": "#0D1015",
    "block_radius": "12px",
    "block_label_text_weight": "600",
    "block_title_text_weight": "600",
    "block_title_text_size": "13px",
    "block_title_text_color": "*neutral_600",
    "block_title_text_color_dark": "#B0B8C4",
    "block_info_text_color": "#4E5766",
    "block_info_text_color_dark": "#B0B8C4",
    "table_border_color": "*neutral_200",
    "table_border_color_dark": "#272D36",
    "color_accent": "*primary_500",
}


def studio_theme() -> gr.themes.Base:
    """Return the theme; colours of cards, lines and text agree with the CSS tokens."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.Color(**dict(zip(STEPS, ACCENT)), c950="#101C48"),
        neutral_hue=gr.themes.Color(**dict(zip(STEPS, GRAY)), c950="#0D1015"),
        radius_size=gr.themes.sizes.radius_md,
        font=FONT,
        font_mono=MONO,
    )
    return theme.set(**BUTTONS, **INPUTS, **SURFACES)
