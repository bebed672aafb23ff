package images

import (
	"os/exec"
	"regexp"
	"testing"
)

func TestNmeterTellsMilliseconds(t *testing.T) {
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash, which is the images' sh")
	}
	out, err := exec.CommandContext(t.Context(), shell, "--posix", "-c", nmeter).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{3}\n$`).Match(out) {
		t.Errorf("it printed %q", out)
	}
}
