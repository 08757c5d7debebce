package prewarmer

import (
	"bufio"
	"io"
	"strings"
)

// maxEvent is the maximum size of a line in bytes. It exceeds the size of the largest task.
const maxEvent = 16 << 20

// event is a server-sent event.
type event struct{ id, data string }

// readEvents calls each for every event until the stream ends or each returns false. It calls alive
// for every line, because comments are keep-alives. An incomplete event at the end of the stream is
// discarded.
func readEvents(stream io.Reader, alive func(), each func(event) bool) error {
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxEvent)
	var current event
	var data []string
	for lines.Scan() {
		alive()
		line := lines.Text()
		if line == "" {
			if data != nil {
				current.data = strings.Join(data, "\n")
				if !each(current) {
					return nil
				}
			}
			data = nil
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			current.id = value
		case "data":
			data = append(data, value)
		}
	}
	return lines.Err()
}
