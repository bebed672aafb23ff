package images

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/integration/tools"
)

// maxClosure bounds what one image may pull in: more is a mistake in its recipe (a desktop, say).
const maxClosure = 300

// debian is one package of the archive, as its index describes it.
type debian struct {
	name, version, arch string
	depends             []string // clauses, each "a (>= 1) | b"
	provides            []string
	control             string // the whole paragraph
}

// file is what apt-get download calls the package's file.
func (d debian) file() string {
	return d.name + "_" + strings.ReplaceAll(d.version, ":", "%3a") + "_" + d.arch + ".deb"
}

// parsePackages reads an index of packages: paragraphs of "Field: value" lines, of which those of other architectures are left out.
func parsePackages(r io.Reader, arch string) (map[string]debian, error) {
	packages := map[string]debian{}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 1<<16), 1<<22)
	scanner.Split(paragraphs)
	for scanner.Scan() {
		p := debian{control: scanner.Text()}
		for line := range strings.Lines(p.control) {
			field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch field {
			case "Package":
				p.name = value
			case "Version":
				p.version = value
			case "Architecture":
				p.arch = value
			case "Depends", "Pre-Depends":
				p.depends = append(p.depends, clauses(value)...)
			case "Provides":
				p.provides = clauses(value)
			}
		}
		if p.name != "" && (p.arch == arch || p.arch == "all") {
			packages[p.name] = p
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("reading an index of packages: %w", err)
	}
	return packages, nil
}

func paragraphs(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if end := bytes.Index(data, []byte("\n\n")); end >= 0 {
		return end + 2, data[:end+1], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

func clauses(value string) []string {
	var found []string
	for clause := range strings.SplitSeq(value, ",") {
		if clause = strings.TrimSpace(clause); clause != "" {
			found = append(found, clause)
		}
	}
	return found
}

// bareName is a dependency without its version and architecture: "libc6:any (>= 2.34)" is libc6.
func bareName(dependency string) string {
	name := strings.Fields(dependency + " ")
	if len(name) == 0 {
		return ""
	}
	bare, _, _ := strings.Cut(name[0], ":")
	return bare
}

// closure lists the packages that roots need, roots included, sorted by name. Those of without are left out, and what only they need. Of
// alternatives the first that is chosen already is taken, else the first that there is, else the first package that provides one.
// Versions are not compared: one index is consistent with itself.
func closure(packages map[string]debian, roots, without []string) ([]debian, error) {
	providers := map[string][]string{}
	for name, p := range packages {
		for _, provided := range p.provides {
			providers[bareName(provided)] = append(providers[bareName(provided)], name)
		}
	}
	chosen := map[string]debian{}
	for queue := slices.Clone(roots); len(queue) > 0; queue = queue[1:] {
		name := queue[0]
		if _, done := chosen[name]; done || slices.Contains(without, name) {
			continue
		}
		p, ok := packages[name]
		if !ok {
			return nil, fmt.Errorf("looking for Debian's package %s: %w", name, errdefs.ErrNotFound)
		}
		if chosen[name] = p; len(chosen) > maxClosure {
			return nil, fmt.Errorf("collecting what %s need: more than %d packages: %w", strings.Join(roots, ", "), maxClosure, errdefs.ErrOutOfRange)
		}
		for _, clause := range p.depends {
			next, err := choose(clause, chosen, packages, providers, without)
			if err != nil {
				return nil, fmt.Errorf("collecting what %s needs: %w", name, err)
			}
			if next != "" {
				queue = append(queue, next)
			}
		}
	}
	list := make([]debian, 0, len(chosen))
	for _, p := range chosen {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b debian) int { return strings.Compare(a.name, b.name) })
	return list, nil
}

// choose answers the package that satisfies a clause, "" when that is one which was left out on purpose.
func choose(clause string, chosen, packages map[string]debian, providers map[string][]string, without []string) (string, error) {
	var names []string
	for alternative := range strings.SplitSeq(clause, "|") {
		names = append(names, bareName(alternative))
	}
	for _, name := range names {
		if slices.Contains(without, name) {
			return "", nil
		}
		if _, ok := chosen[name]; ok {
			return name, nil
		}
	}
	for _, name := range names {
		if _, ok := packages[name]; ok {
			return name, nil
		}
	}
	for _, name := range names {
		slices.Sort(providers[name])
		for _, provider := range providers[name] {
			if slices.Contains(without, provider) {
				return "", nil
			}
			return provider, nil
		}
	}
	return "", fmt.Errorf("nothing satisfies %q: %w", clause, errdefs.ErrNotFound)
}

// debianIndex asks apt for every package that it could install. It is an error when apt knows of nothing but what is installed.
func debianIndex(ctx context.Context, arch string) (map[string]debian, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "dumpavail").Output()
	if err != nil {
		return nil, fmt.Errorf("reading Debian's index: %w\ntest images are made of Debian's packages: run this on Debian", err)
	}
	packages, err := parsePackages(bytes.NewReader(out), arch)
	if err != nil {
		return nil, err
	}
	// A package that is installed is listed without an index too, but not where it can be fetched.
	if !strings.Contains(packages["libc6"].control, "\nFilename: ") {
		return nil, fmt.Errorf("reading Debian's index: it has no libc6 for %s to fetch: %w", arch, errdefs.ErrNotFound)
	}
	return packages, nil
}

// updateIndex has apt fetch the index.
func updateIndex(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, "apt-get", "update", "-q").CombinedOutput(); err != nil {
		return fmt.Errorf("fetching Debian's index: %w: %s", err, out)
	}
	return nil
}

// fetch answers the paths of packages' files, in the same order. What was fetched is kept in the cache.
func fetch(ctx context.Context, packages []debian, arch string) ([]string, error) {
	cache, err := tools.CacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "debian-"+arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the cache for Debian's packages: %w", err)
	}
	var paths, missing []string
	for _, p := range packages {
		kept := filepath.Join(dir, p.file())
		paths = append(paths, kept)
		if _, err := os.Stat(kept); err != nil {
			missing = append(missing, p.name+"="+p.version)
		}
	}
	if len(missing) == 0 {
		return paths, nil
	}
	// Into a directory of its own and then renamed: a download that was cut short must not be taken for the package.
	draft, err := os.MkdirTemp(dir, "fetching-")
	if err != nil {
		return nil, fmt.Errorf("fetching Debian's packages: %w", err)
	}
	defer os.RemoveAll(draft)
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"download", "-q"}, missing...)...)
	cmd.Dir = draft
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("fetching Debian's packages %s: %w: %s", strings.Join(missing, ", "), err, out)
	}
	for _, path := range paths {
		err := os.Rename(filepath.Join(draft, filepath.Base(path)), path)
		if _, statErr := os.Stat(path); statErr != nil {
			return nil, fmt.Errorf("fetching %s: %w", filepath.Base(path), errors.Join(err, statErr))
		}
	}
	return paths, nil
}
