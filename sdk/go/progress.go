package prewarmer

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
)

// maxLine is the maximum width of a line on a terminal. A wrapped line could not be overwritten.
const maxLine = 79

// ProgressWriter returns a function for [WithProgress]. On a terminal it redraws one line;
// otherwise, for example in the log of a pipeline, it writes a line for each change.
func ProgressWriter(w io.Writer) func(*TaskView) {
	if isTerminal(w) {
		return drawProgress(w)
	}
	last := ""
	return func(task *TaskView) {
		// Write errors are ignored, because they must not stop the wait.
		if line := progressLine(task); line != last {
			_, _ = fmt.Fprintln(w, line)
			last = line
		}
	}
}

func drawProgress(w io.Writer) func(*TaskView) {
	return func(task *TaskView) {
		line := []rune(progressLine(task))
		end := ""
		if task.Ended() {
			end = "\n"
		}
		_, _ = fmt.Fprintf(w, "\r%s\x1b[K%s", string(line[:min(len(line), maxLine)]), end)
	}
}

func progressLine(task *TaskView) string {
	p := task.Progress
	line := fmt.Sprintf("%s %s %d/%d nodes %.1f%%", task.TaskID, task.Status, p.CompletedNodes, p.TotalNodes, p.Percentage)
	if p.FailedNodes > 0 {
		line += fmt.Sprintf(", %d failed", p.FailedNodes)
	}
	if task.Message != "" {
		line += ", " + task.Message
	}
	// Messages contain text of registries; control characters are replaced to protect the terminal.
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, line)
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
