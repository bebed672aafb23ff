package tools

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// CacheDir is where built tools are kept between runs: $XDG_CACHE_HOME/shimd-tools, else ~/.cache/shimd-tools.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache directory: %w; set HOME or XDG_CACHE_HOME", err)
	}
	dir := filepath.Join(base, "shimd-tools")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the cache directory: %w", err)
	}
	return dir, nil
}

// keep answers the cache's directory of that name. When there is none, build fills a draft beside it, which is renamed: an interrupted build
// leaves nothing that looks whole, and two at once do not mix.
func keep(name string, build func(draft string) error) (string, error) {
	dir, found, err := kept(name)
	if err != nil || found {
		return dir, err
	}
	draft, err := os.MkdirTemp(filepath.Dir(dir), "building-")
	if err != nil {
		return "", fmt.Errorf("making a directory to build in: %w", err)
	}
	defer os.RemoveAll(draft)
	if err := build(draft); err != nil {
		return "", err
	}
	if err := os.Chmod(draft, 0o755); err != nil {
		return "", fmt.Errorf("opening the built tools to all users: %w", err)
	}
	if err := os.Rename(draft, dir); err != nil {
		if _, statErr := os.Stat(dir); statErr != nil {
			return "", fmt.Errorf("keeping the built tools: %w", err)
		} // else somebody else was faster with the same
	}
	return dir, nil
}

// kept says where the cache has a directory of that name, and whether it has.
func kept(name string) (dir string, found bool, err error) {
	cache, err := CacheDir()
	if err != nil {
		return "", false, err
	}
	dir = filepath.Join(cache, name)
	switch _, err := os.Stat(dir); {
	case err == nil:
		return dir, true, nil
	case errors.Is(err, fs.ErrNotExist):
		return dir, false, nil
	default:
		return "", false, fmt.Errorf("looking for built tools: %w", err)
	}
}

// ModuleKey covers everything that a program of a module depends on, whose sources are all named by the module's requirements.
func ModuleKey(ctx context.Context, module string) (string, error) { return cacheKey(ctx, module) }

// ModuleSource is where the module cache keeps the source of a module that the one in dir requires, and its version without the v.
func ModuleSource(ctx context.Context, dir, module string) (source, version string, err error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return "", "", fmt.Errorf("fetching %s: %w: %s", module, err, out)
	}
	var info struct{ Dir, Version string }
	if err := json.Unmarshal(out, &info); err != nil {
		return "", "", fmt.Errorf("reading what go says of %s: %w", module, err)
	}
	return info.Dir, strings.TrimPrefix(info.Version, "v"), nil
}

// cacheKey covers everything that the programs of a module depend on: its requirements, the Go version, and what else they are built with.
func cacheKey(ctx context.Context, module string, more ...string) (string, error) {
	sum := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", fmt.Errorf("reading what %s is built from: %w", filepath.Base(module), err)
		}
		sum.Write(data)
	}
	goVersion, err := exec.CommandContext(ctx, "go", "env", "GOVERSION", "GOARCH").Output()
	if err != nil {
		return "", fmt.Errorf("asking go for its version: %w", err)
	}
	fmt.Fprintf(sum, "%s %s", goVersion, strings.Join(more, " "))
	return fmt.Sprintf("%x", sum.Sum(nil)[:8]), nil
}
