/*
 * Predicts the open image, or what is selected of it, with a model of Parfocal, and opens what comes back: images,
 * labels, regions in the ROI Manager and tables. The verdict of quality control is shown before and after.
 *
 * It works through the command `parfocal` of this computer, whose logins (`parfocal login`) it uses. Install: put the
 * file into the folder scripts/Plugins of Fiji; it is then found as Plugins > Parfocal Predict. See README.md beside it.
 */
import groovy.json.JsonSlurper
import groovy.transform.Field
import ij.IJ
import ij.ImagePlus
import ij.Prefs
import ij.WindowManager
import ij.gui.GenericDialog
import ij.gui.Roi
import ij.io.FileSaver
import ij.io.Opener
import ij.io.RoiDecoder
import ij.measure.ResultsTable
import ij.plugin.Duplicator
import ij.plugin.frame.RoiManager
import java.nio.file.Files
import java.util.zip.ZipInputStream

@Field static final String COMMAND_KEY = 'parfocal.command'
@Field static final String SERVER_KEY = 'parfocal.server'
@Field static final String PROJECT_KEY = 'parfocal.project'
@Field static final String LOCAL = 'local'
@Field static final Map VERDICTS = [
    passed: 'passed quality control', failed: 'did NOT pass quality control', unchecked: 'not checked by quality control'
]

/** What a command said that did not succeed. */
class ParfocalFailure extends Exception {
    ParfocalFailure(String message) { super(message) }
}

/**
 * Returns what `parfocal ARGUMENTS --json` prints, as lists and maps.
 *
 * @param command The program, e.g. "parfocal" or its whole path.
 * @param onLine Called with each line that the command says while it works, and null while it is silent; returns whether
 *     it shall go on.
 */
def ask(String command, List arguments, Closure onLine = { true }) {
    def process
    try {
        process = new ProcessBuilder([command, *arguments, '--json']*.toString()).start()
    } catch (IOException ignored) {
        throw new ParfocalFailure("The program '${command}' was not found. Install Parfocal's client on this computer " +
            '(see README.md beside this script) and give the path of the program.')
    }
    process.outputStream.close()
    def output = new StringBuffer(), said = new StringBuffer()
    def reader = Thread.start { process.inputStream.eachLine('UTF-8') { output.append(it).append('\n') } }
    def listener = Thread.start { process.errorStream.eachLine('UTF-8') { said.append(it).append('\n') } }
    int told = 0
    while (process.alive) {
        Thread.sleep(200)
        def lines = said.toString().readLines()
        def news = lines.drop(told)
        told = lines.size()
        if (!(news ?: [null]).every { onLine(it) }) {
            process.destroy()
            throw new ParfocalFailure('Cancelled. A job that has begun goes on at the server: `parfocal jobs list`.')
        }
    }
    [reader, listener]*.join()
    if (process.exitValue() != 0) {
        throw new ParfocalFailure(reason(output.toString(), said.toString()))
    }
    return new JsonSlurper().parseText(output.toString())
}

/** Returns why a command did not succeed: its error as JSON, or the last of what it said. */
def reason(String output, String said) {
    try {
        def error = new JsonSlurper().parseText(output)?.error
        if (error) {
            return (error instanceof Map ? error.message : error).toString()
        }
    } catch (Exception ignored) {
        // What is no JSON is no answer.
    }
    return said.trim() ?: 'The command ended without a word. Try it in a terminal.'
}

/** Returns the options that say which server and project are meant. */
def where(String server, String project) {
    return ['--context', server] + (project ? ['--project', project] : [])
}

/** Returns the names of the servers: this computer, and those that somebody has logged in to. */
def servers(String command) {
    def known = ask(command, ['contexts', 'list'])
    def current = known.find { it.current }?.name
    return ([current, LOCAL] + known*.name).findAll { it }.unique()
}

/** Returns the models of a project: maps with model, version, method, and verdict. */
def models(String command, String server, String project) {
    return ask(command, ['models', 'list', *where(server, project)])
}

/** Returns how a model is called in the list. */
def title(Map model) {
    return "${model.model}:${model.version} (${model.method}, ${VERDICTS[model.verdict.state]})".toString()
}

/** Returns what to show about a verdict. */
def verdictText(Map verdict) {
    return "The model is ${VERDICTS[verdict.state]}." + verdict.reasons.collect { "\n- ${it}" }.join('')
}

/**
 * Predicts an image and returns a map: images (list of ImagePlus), rois (list of Roi, at their place in `image`), tables
 * (ResultsTable by name), verdict.
 *
 * @param image The image; where it has a selection, the rectangle around that is sent.
 * @param model "name:version".
 */
def predict(String command, String server, String project, String model, ImagePlus image, Closure onLine = { true }) {
    def bounds = image.roi?.bounds
    def folder = Files.createTempDirectory('parfocal-').toFile()
    try {
        def sent = new Duplicator().run(image)
        def file = new File(folder, 'input/image.tif')
        file.parentFile.mkdirs()
        def saver = new FileSaver(sent)
        if (!(sent.stackSize > 1 ? saver.saveAsTiffStack(file.path) : saver.saveAsTiff(file.path))) {
            throw new ParfocalFailure("The image could not be written to ${file}: is the disk full?")
        }
        def output = new File(folder, 'output')
        def arguments = ['predict', '--model', model, file.parent, '--output', output.path, *where(server, project)]
        def answer = ask(command, arguments, onLine)
        def refused = answer.images.find { it.reason }
        if (refused) {
            throw new ParfocalFailure(refused.reason)
        }
        return collect(output, answer.files.collect { new File(it) }, image, bounds) + [verdict: answer.verdict]
    } finally {
        folder.deleteDir()
    }
}

/** Returns the contents of result files: images, regions and tables. */
def collect(File folder, List files, ImagePlus image, bounds) {
    def found = [images: [], rois: [], tables: [:]]
    files.each { file ->
        def kind = file.parentFile == folder ? '' : file.parentFile.name
        if (file.name.endsWith('.tif')) {
            def opened = new Opener().openImage(file.path)
            if (opened != null) {
                opened.title = "${image.title} ${kind ?: 'prediction'}"
                found.images << opened
            }
        } else if (file.name.endsWith('.zip') && kind == 'rois') {
            found.rois.addAll(readRois(file, bounds))
        } else if (file.name.endsWith('.csv') && kind && kind != 'trackmate') {
            def table = ResultsTable.open(file.path)
            if (table != null) {
                found.tables[kind] = table
            }
        }
    }
    return found
}

/** Returns the regions in an archive, moved by where the selection begins that was sent. */
def readRois(File archive, bounds) {
    def rois = []
    new ZipInputStream(archive.newInputStream()).withCloseable { zip ->
        for (def entry = zip.nextEntry; entry != null; entry = zip.nextEntry) {
            if (!entry.name.endsWith('.roi')) {
                continue
            }
            def bytes = new ByteArrayOutputStream()
            bytes << zip
            def roi = new RoiDecoder(bytes.toByteArray(), entry.name).roi
            if (bounds != null) {
                roi.setLocation(roi.XBase + bounds.x, roi.YBase + bounds.y)
            }
            rois << roi
        }
    }
    return rois
}

/** Shows what came back. */
def show(Map found, ImagePlus image) {
    found.images.each { it.show() }
    if (found.rois) {
        def manager = RoiManager.roiManager
        found.rois.each { Roi roi -> manager.addRoi(roi) }
        IJ.selectWindow(image.ID)
        manager.runCommand(image, 'Show All')
    }
    found.tables.each { name, table -> table.show("${image.title} ${name}") }
    IJ.log(verdictText(found.verdict))
}

/** Asks what to do and does it. */
def main() {
    def image = WindowManager.currentImage
    if (image == null) {
        IJ.error('Parfocal', 'Open an image first.')
        return
    }
    def first = new GenericDialog('Parfocal: server')
    def command = Prefs.get(COMMAND_KEY, 'parfocal')
    def known
    try {
        known = servers(command)
    } catch (ParfocalFailure ignored) {
        known = [LOCAL]
    }
    def before = Prefs.get(SERVER_KEY, known[0])
    first.addStringField('Program', command, 40)
    first.addChoice('Server', known as String[], before in known ? before : known[0])
    first.addStringField('Project (empty: the usual one)', Prefs.get(PROJECT_KEY, ''), 20)
    first.showDialog()
    if (first.wasCanceled()) {
        return
    }
    command = first.nextString.trim()
    def server = first.nextChoice
    def project = first.nextString.trim()
    [(COMMAND_KEY): command, (SERVER_KEY): server, (PROJECT_KEY): project].each { key, value -> Prefs.set(key, value) }
    IJ.showStatus('Parfocal: asking for models')
    def offered = models(command, server, project)
    if (!offered) {
        IJ.error('Parfocal', 'There are no models in this project. Train one, or choose another project.')
        return
    }
    def titles = offered.collect { title(it) }
    def second = new GenericDialog('Parfocal: model')
    second.addChoice('Model', titles as String[], titles[0])
    second.addMessage(image.roi == null ? 'The whole image is sent.' : 'The rectangle around the selection is sent.')
    second.showDialog()
    if (second.wasCanceled()) {
        return
    }
    def model = offered[second.nextChoiceIndex]
    if (model.verdict.state != 'passed'
        && !IJ.showMessageWithCancel('Parfocal', verdictText(model.verdict) + '\nGo on?')) {
        return
    }
    IJ.resetEscape()
    def found = predict(command, server, project, "${model.model}:${model.version}", image) { line ->
        IJ.showStatus("Parfocal: ${line ?: 'predicting'} (Esc: stop waiting)")
        return !IJ.escapePressed()
    }
    show(found, image)
    IJ.showStatus('Parfocal: done')
}

// A test calls the functions one by one.
if (!binding.hasVariable('parfocalTest')) {
    try {
        main()
    } catch (ParfocalFailure failure) {
        IJ.error('Parfocal', failure.message)
    }
}
