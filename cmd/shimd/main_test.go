package main

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a newcomer mistypes is answered in one line that says what to do.
func TestWrongCommandLines(t *testing.T) {
	dir := t.TempDir()
	absent := filepath.Join(dir, "absent.toml")
	if err := os.WriteFile(absent, []byte("[runtimes.other]\npath = \""+dir+"/none\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, wanted := range map[string]string{
		"--nosuch":                        "flag provided but not defined: -nosuch; see shimd --help",
		"config":                          `there is no command "config"; see shimd --help`,
		"cofnig check":                    `there is no command "cofnig check"; see shimd --help`,
		"config check --log-level info x": `unexpected argument "x"; see shimd --help`,
		"config check --config " + absent: "configuration: runtimes.other.path: ",
	} {
		var out strings.Builder
		err := run(t.Context(), strings.Fields(line), &out)
		if err == nil || !strings.HasPrefix(err.Error(), wanted) || out.Len() > 0 {
			t.Errorf("shimd %s: %v, wanted %q; printed %q", line, err, wanted, out.String())
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"--help"}, &out); !errors.Is(err, flag.ErrHelp) || !strings.Contains(out.String(), "-listen") {
		t.Errorf("%v, %q", err, out.String())
	}
	out.Reset()
	if err := run(t.Context(), []string{"--version"}, &out); err != nil || out.String() != "shimd devel\n" {
		t.Errorf("%v, %q", err, out.String())
	}
}

// A place that another process serves, or that is no socket, is refused: the first step of a start, before anything is left behind.
func TestClearSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	if err := clearSocket("unix://" + path); err != nil {
		t.Errorf("nothing there: %v", err)
	}
	listener, err := listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	if err := clearSocket("unix://" + path); err == nil || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("another serves it: %v", err)
	}
	listener.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := clearSocket("unix://" + path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file: %v", err)
	}
}
