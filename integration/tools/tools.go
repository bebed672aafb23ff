// Package tools builds the programs that the tests run: shimd's own, those of the test images, crictl, critest and ginkgo, and the kubelet.
//
// It runs the go command and keeps what is slow to build in a cache outside the tree. It knows nothing of images or running daemons.
package tools

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const modulePath = "github.com/shimd/shimd"

// ModuleRoot finds the top of shimd's source tree, at or above the working directory.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the source tree: %w", err)
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte("module "+modulePath+"\n")) {
			return dir, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("finding the source tree: %w", err)
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("finding the source tree: no go.mod of %s at or above the working directory; run this from a clone", modulePath)
		}
		dir = up
	}
}

// Build is one go build.
type Build struct {
	Dir     string // where the go command runs: inside the module
	Package string // import path or ./path
	Out     string
	Test    bool   // go test -c instead of go build
	Arch    string // GOARCH; "" for this machine's
	LDFlags string
	Tags    string
	Small   []string // patterns of packages in which nothing is inlined
	ModFile string   // go.mod to use instead of the module's own; "" for that
}

// Run builds a static program. The result depends on sources and the Go version alone (-trimpath, no VCS stamp).
func (b Build) Run(ctx context.Context) error {
	args := []string{"build"}
	if b.Test {
		args = []string{"test", "-c", "-vet=off"} // other people's packages, a thousand of them: half of the time
	}
	args = append(args, "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", strings.TrimSpace("-s -w "+b.LDFlags), "-o", b.Out)
	if b.Tags != "" {
		args = append(args, "-tags", b.Tags)
	}
	for _, pattern := range b.Small {
		args = append(args, "-gcflags="+pattern+"=-l")
	}
	if b.ModFile != "" {
		args = append(args, "-modfile", b.ModFile)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, b.Package)...)
	cmd.Dir = b.Dir
	// GOFLAGS of the caller may ask for modes that do not fit a nested module (-mod=vendor, -race).
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if b.Arch != "" {
		cmd.Env = append(cmd.Env, "GOARCH="+b.Arch)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", b.Package, err, bytes.TrimSpace(out))
	}
	return nil
}

// Programs are shimd's own.
func Programs() []string { return []string{"shimd", "shimd-keeper", "shimlet"} }

// BuildShimd builds shimd's own programs into dir, with the Makefile's flags.
func BuildShimd(ctx context.Context, root, dir string) error {
	for _, name := range Programs() {
		if err := (Build{
			Dir: root, Package: "./cmd/" + name, Out: filepath.Join(dir, name), Tags: "grpcnotrace",
			Small: []string{"k8s.io/...", "sigs.k8s.io/...", "google.golang.org/protobuf/..."},
		}).Run(ctx); err != nil {
			return err
		}
	}
	return nil
}
