"""The window part: choose server, model and layer, predict, and get layers and tables back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Shapes
from napari.qt.threading import create_worker
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_parfocal.connecting import Model, models_of, open_client, servers
from napari_parfocal.layers import Cut, axes_choices, cut, layers_of
from parfocal.client.single_images import PredictedImage, Stop
from parfocal.runtime.errors import CancelledError, InvalidInputError, ParfocalError

if TYPE_CHECKING:
    from napari.viewer import Viewer

_COLOURS = {"passed": "#2a9d4a", "failed": "#c8372d", "unchecked": "#c98a00"}
_MARKS = {"passed": "passed", "failed": "NOT passed", "unchecked": "not checked"}
_LEAST_PIXELS = 2


class _Progress(QObject):
    """Carries the completed part from the thread that waits to the window."""

    fraction = Signal(float)


class PredictWidget(QWidget):
    """Predicts the chosen image layer, or a rectangle of it, with a model of Parfocal.

    Parameters
    ----------
    napari_viewer
        The viewer whose layers are offered and to which results are added.

    Attributes
    ----------
    tables
        What came with the last prediction, by name: CSV text.
    busy
        Whether something runs in the background.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._models: list[Model] = []
        self._stop: Stop | None = None
        self.tables: dict[str, str] = {}
        self.busy = False
        self._build()
        self._progress = _Progress()
        self._progress.fraction.connect(lambda part: self.progress.setValue(round(100 * part)))
        for event in (napari_viewer.layers.events.inserted, napari_viewer.layers.events.removed):
            event.connect(self._list_layers)
        napari_viewer.layers.events.reordered.connect(self._list_layers)
        self._list_layers()
        self._show_model()

    # Building

    def _build(self) -> None:
        self.server, self.project = QComboBox(), QComboBox()
        self.project.setEditable(True)
        self.project.setToolTip("Empty: the project of the server's settings.")
        self.connect_button = QPushButton("List models")
        self.model, self.layer, self.axes, self.region = QComboBox(), QComboBox(), QComboBox(), QComboBox()
        self.verdict, self.scale, self.message = QLabel(), QLabel(), QLabel()
        for label in (self.verdict, self.message):
            label.setWordWrap(True)
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.predict_button, self.cancel_button = QPushButton("Predict"), QPushButton("Cancel")
        self.save_button = QPushButton("Save tables…")
        self.progress = QProgressBar()
        form = QFormLayout()
        for title, widget in (
            ("Server", self.server),
            ("Project", self.project),
            ("", self.connect_button),
            ("Model", self.model),
            ("Verdict", self.verdict),
            ("Image", self.layer),
            ("Pixel size", self.scale),
            ("Axes", self.axes),
            ("Part", self.region),
        ):
            form.addRow(title, widget)
        buttons = QHBoxLayout()
        for button in (self.predict_button, self.cancel_button, self.save_button):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addLayout(buttons)
        layout.addWidget(self.progress)
        layout.addWidget(self.message)
        layout.addStretch()
        self.cancel_button.setEnabled(False)
        self.save_button.setEnabled(False)
        try:
            self.server.addItems(servers())
        except ParfocalError as error:
            self.say(error.message)
        self.connect_button.clicked.connect(self.list_models)
        self.predict_button.clicked.connect(self.predict)
        self.cancel_button.clicked.connect(self.cancel)
        self.save_button.clicked.connect(self._choose_folder)
        self.model.currentIndexChanged.connect(self._show_model)
        self.layer.currentIndexChanged.connect(self._show_layer)

    # What is chosen

    @property
    def chosen_model(self) -> Model | None:
        """The model that is chosen; None where there is none."""
        number = self.model.currentIndex()
        return self._models[number] if 0 <= number < len(self._models) else None

    @property
    def chosen_layer(self) -> ImageLayer | None:
        """The image layer that is chosen; None where there is none."""
        named = (layer for layer in self._viewer.layers if layer.name == self.layer.currentText())
        return next((layer for layer in named if isinstance(layer, ImageLayer)), None)

    def _list_layers(self, _event: object = None) -> None:
        chosen, region = self.layer.currentText(), self.region.currentText()
        self.layer.blockSignals(True)
        self.layer.clear()
        images = [layer.name for layer in self._viewer.layers if isinstance(layer, ImageLayer)]
        self.layer.addItems(images)
        active = self._viewer.layers.selection.active
        first = active.name if isinstance(active, ImageLayer) else ""
        self.layer.setCurrentText(chosen if chosen in images else first or (images[-1] if images else ""))
        self.layer.blockSignals(False)
        self.region.clear()
        shapes = [layer.name for layer in self._viewer.layers if isinstance(layer, Shapes)]
        self.region.addItems(["whole field", *(f"selected shape of {name}" for name in shapes)])
        if self.region.findText(region) >= 0:
            self.region.setCurrentText(region)
        self._show_layer()

    def _show_layer(self, _number: int = 0) -> None:
        layer, model = self.chosen_layer, self.chosen_model
        self.axes.clear()
        self.scale.setText("")
        if layer is None:
            return
        choices = axes_choices(model.method if model else None, layer.ndim)
        for axes in choices:
            shown = axes if len(axes) == layer.ndim else f"{axes}, as shown"
            self.axes.addItem(shown, axes)
        if choices:
            size = cut_size(layer, choices[-1])
            self.scale.setText(size or "not known: set the scale of the layer in micrometres")

    def _show_model(self, _number: int = 0) -> None:
        model = self.chosen_model
        self.verdict.setText(model.verdict if model else "")
        colour = _COLOURS[model.state] if model else "gray"
        self.verdict.setStyleSheet(f"color: {colour}; font-weight: bold;")
        self.predict_button.setEnabled(model is not None and not self.busy)
        self._show_layer()

    # Work

    def list_models(self) -> None:
        """Ask the server for its models and projects, in the background."""
        server, project = self.server.currentText(), self.project.currentText().strip()

        def ask() -> tuple[list[Model], list[str], str]:
            with open_client(server, project) as client:
                return models_of(client), client.catalog.projects(), client.project

        self.say("Asking the server…")
        self._run(ask, self._list_models)

    def _list_models(self, answer: tuple[list[Model], list[str], str]) -> None:
        models, projects, project = answer
        self.project.clear()
        self.project.addItems(sorted({*projects, project}))
        self.project.setCurrentText(project)
        self._models = [model for model in models if model.method is not None]
        self.model.clear()
        for model in self._models:
            title = model.method.title if model.method is not None else ""
            self.model.addItem(_icon(_COLOURS[model.state]), f"{model.name}: {title}, {_MARKS[model.state]}")
        hidden = len(models) - len(self._models)
        if not models:
            self.say(f"There are no models in the project {project}. Train one, or choose another project.")
        else:
            text = f"{len(self._models)} models in the project {project}."
            self.say(f"{text} {hidden} more belong to services that do not run." if hidden else text)
        self._show_model()

    def predict(self) -> None:
        """Send the chosen layer, or its part, and add what comes back; in the background."""
        model, layer = self.chosen_model, self.chosen_layer
        if model is None or layer is None:
            self.say("Choose a model and an image layer first.")
            return
        axes = self.axes.currentData()
        if not axes:
            title = model.method.title if model.method is not None else "This method"
            self.say(
                f"{title} does not take images of {layer.ndim} dimensions. Choose another layer, or split its channels."
            )
            return
        try:
            sent = cut(layer, axes, self._viewer.dims.current_step[-layer.ndim :], self._window(layer))
        except ParfocalError as error:
            self.say(error.message)
            return
        server, project = self.server.currentText(), self.project.currentText().strip()
        stop = self._stop = Stop()

        def ask() -> PredictedImage:
            with open_client(server, project) as client:
                return client.predict_image(model.uri, sent.image, on_fraction=self._progress.fraction.emit, stop=stop)

        self.say("Predicting…")
        self.cancel_button.setEnabled(True)
        self._run(ask, lambda found: self._add(found, sent, model, layer.name))

    def cancel(self) -> None:
        """End the prediction that runs."""
        if self._stop is not None:
            self.say("Cancelling…")
            self._stop.ask()

    def _window(self, layer: ImageLayer) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Return rows and columns of the layer that the chosen shape encloses; None for the whole field.

        Raises
        ------
        InvalidInputError
            No shape is selected, or it lies outside the layer.
        """
        if self.region.currentIndex() <= 0:
            return None
        shapes = self._viewer.layers[self.region.currentText().removeprefix("selected shape of ")]
        chosen = sorted(shapes.selected_data) or ([0] if len(shapes.data) == 1 else [])
        if not chosen:
            raise InvalidInputError(f"No shape of {shapes.name} is selected. Draw a rectangle, or select one.")
        corners = np.array([shapes.data_to_world(point)[-2:] for point in shapes.data[chosen[0]]])
        # Corners lie between pixels, whose middles have whole coordinates.
        inside = (corners - layer.translate[-2:]) / layer.scale[-2:] + 0.5
        shape = (layer.data[0] if layer.multiscale else layer.data).shape
        height, width = shape[layer.ndim - 2 : layer.ndim]
        low = np.clip(np.floor(inside.min(0)).astype(int), 0, (height, width))
        high = np.clip(np.ceil(inside.max(0)).astype(int), 0, (height, width))
        if (high - low).min() < _LEAST_PIXELS:
            raise InvalidInputError(f"The selected shape of {shapes.name} lies outside {layer.name}.")
        return (int(low[0]), int(high[0])), (int(low[1]), int(high[1]))

    def _add(self, found: PredictedImage, sent: Cut, model: Model, name: str) -> None:
        facts = {
            "model": model.name,
            "uri": model.uri,
            "verdict": {"state": model.state, "text": model.verdict},
            "warnings": list(found.warnings),
        }
        made = layers_of(found, sent, model.method, f"{name} {model.name}", facts)
        for data, keywords, kind in made:
            getattr(self._viewer, f"add_{kind}")(data, **keywords)
        self.tables = dict(found.tables)
        self.save_button.setEnabled(bool(self.tables))
        self.progress.setValue(100)
        self.say("\n".join([f"Added {len(made)} layers.", *found.warnings]))

    def save_tables(self, folder: Path) -> list[Path]:
        """Write the tables of the last prediction to a folder as NAME.csv; files that exist get a number."""
        written = []
        for name, text in self.tables.items():
            path, number = folder / f"{name}.csv", 1
            while path.exists():
                number += 1
                path = folder / f"{name}-{number}.csv"
            path.write_text(text, encoding="utf-8")
            written.append(path)
        self.say(f"Wrote {', '.join(path.name for path in written)}.")
        return written

    def _choose_folder(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "Folder for the tables"):
            try:
                self.save_tables(Path(folder))
            except OSError as error:
                self.say(f"The tables cannot be written to {folder}: {error.strerror}.")

    # What runs in the background

    def say(self, text: str) -> None:
        """Show a message."""
        self.message.setText(text)

    def _run(self, ask: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Call `ask` in a thread and give what it returns to `done` in the window's; errors are shown as messages."""
        self._set_busy(True)
        worker = create_worker(_caught, ask, _start_thread=False)

        def finished(outcome: tuple[Any, ParfocalError | None]) -> None:
            answer, error = outcome
            self._set_busy(False)
            if error is None:
                done(answer)
            else:
                self.say("Cancelled." if isinstance(error, CancelledError) else error.message)

        worker.returned.connect(finished)
        # Napari shows other errors itself; the window must be usable after them.
        worker.errored.connect(lambda _: self._set_busy(False))
        worker.start()

    def _set_busy(self, busy: bool) -> None:
        self.busy = busy
        self.progress.setRange(0, 100)
        self.progress.setValue(0)
        self.connect_button.setEnabled(not busy)
        self.predict_button.setEnabled(not busy and self.chosen_model is not None)
        if not busy:
            self.cancel_button.setEnabled(False)


def cut_size(layer: ImageLayer, axes: str) -> str:
    """Return the size of a layer's pixels as people read it; empty where it is not known."""
    from napari_parfocal.layers import pixel_size

    kept = slice(layer.ndim - len(axes), layer.ndim)
    size = pixel_size(list(layer.scale[kept]), [str(unit) for unit in layer.units[kept]], axes)
    if size is None:
        return ""
    lengths = [size.x, size.y, *([size.z] if size.z else [])]
    return f"{' x '.join(f'{length:.4g}' for length in lengths)} µm"


def _caught(ask: Callable[[], Any]) -> tuple[Any, ParfocalError | None]:
    """Return the answer and no error, or the error of Parfocal: what is returned as it is would be raised."""
    try:
        return ask(), None
    except ParfocalError as error:
        return None, error


def _icon(colour: str) -> QIcon:
    pixmap = QPixmap(12, 12)
    pixmap.fill(QColor(colour))
    return QIcon(pixmap)
