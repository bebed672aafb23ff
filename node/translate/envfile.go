package translate

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
)

// FileVariable is the value of a variable in a file of lines NAME='value', as fileKeyRef reads them: values in single quotes, which may go over
// several lines; comments from # on; no spaces around =.
func FileVariable(file io.Reader, key string) (value string, found bool, err error) {
	lines := bufio.NewScanner(file)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimLeft(lines.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		wrong := func(what string) error {
			return fmt.Errorf("invalid environment variable format at line %d: %s: %w", number, what, errdefs.ErrInvalidArgument)
		}
		name, rest, ok := strings.Cut(line, "=")
		switch {
		case !ok:
			return "", false, wrong("missing '='")
		case name == "" || strings.TrimRight(name, " \t") != name:
			return "", false, wrong("whitespace before '=' is not allowed")
		case strings.TrimLeft(rest, " \t") != rest || rest == "": // as a shell: an empty value, then something else
			if name == key {
				return "", false, nil
			}
			continue
		case rest[0] != '\'':
			return "", false, wrong("value must be enclosed in single quotes")
		}
		rest = rest[1:]
		for !strings.Contains(rest, "'") {
			if !lines.Scan() {
				return "", false, wrong("unclosed single quote")
			}
			number++
			rest += "\n" + lines.Text()
		}
		text, after, _ := strings.Cut(rest, "'")
		if after = strings.TrimLeft(after, " \t"); after != "" && after[0] != '#' {
			return "", false, wrong("unexpected content after closing quote")
		}
		if name == key {
			return text, text != "", nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", false, fmt.Errorf("reading the file of variables: %w", err)
	}
	return "", false, nil
}
