package shimd_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"sigs.k8s.io/yaml"
)

const module = "github.com/shimd/shimd"

// goPackage is what `go list -json` tells of a package.
type goPackage struct {
	ImportPath, Doc string
	Imports         []string
	GoFiles         []string
}

// room is the package's path within the module.
func (p goPackage) room() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Doc,Imports,GoFiles", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing packages: %v\n%s", err, &stderr)
	}
	var found []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 { // else tests only
			found = append(found, p)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	vague := []string{"util", "utils", "helper", "helpers", "common", "misc", "lib", "pkg"}
	for _, p := range packages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment: say what belongs inside and what does not", p.ImportPath)
		}
		if name := path.Base(p.ImportPath); slices.Contains(vague, name) {
			t.Errorf("%s: %q says nothing of what is inside; name the thing", p.ImportPath, name)
		}
	}
}

// Dependencies point one way. An import is matched by prefix on path borders; own packages are written without the module's path, with "./".
func TestForbiddenImports(t *testing.T) {
	rules := []struct {
		from   []string // rooms, with everything below
		except []string // rooms that the rule does not hold for, when from is the whole tree ("")
		forbid []string
		reason string
	}{
		{from: []string{"image"}, forbid: []string{"./network", "./cgroups", "./runtime", "./cri", "./keeper", "./node"},
			reason: "images are kept without knowing what runs from them"},
		{from: []string{"network"}, forbid: []string{"./image", "./cgroups", "./runtime", "./cri", "./keeper", "./node"},
			reason: "a network knows namespaces, not containers"},
		{from: []string{"cgroups"}, forbid: []string{"./image", "./network", "./runtime", "./cri", "./keeper", "./node"},
			reason: "control groups are paths and limits"},
		{from: []string{"launch"}, forbid: []string{"./image", "./network", "./cgroups", "./runtime", "./cri", "./keeper", "./node", "os/exec"},
			reason: "a launch program is data made of descriptors and system calls"},
		{from: []string{"userns"}, forbid: []string{"./"}, reason: "what every room may call calls none"},
		{from: []string{"keeper", "cmd/shimd-keeper"}, forbid: []string{"./image", "./network", "./cgroups", "./runtime", "./cri", "./node", "google.golang.org/grpc", "net/http", "k8s.io"},
			reason: "the keeper is small and knows no policy: it must hardly ever change, and its memory is paid on every node"},
		{from: []string{"runtime"}, forbid: []string{"./cri", "./node"}, reason: "the runtime has its own words; CRI is translated above it"},
		{from: []string{"runtime/request"}, forbid: []string{"./"}, reason: "requests are data that every room may hold"},
		{from: []string{"node"}, forbid: []string{"./runtime", "./image", "./network", "./cri", "./keeper", "./launch"},
			reason: "the node agent speaks to the runtime by CRI alone, so that it works with any other one"},
		{from: []string{"node"}, except: []string{"node/qos"}, forbid: []string{"./cgroups"},
			reason: "the agent's own cgroups, above those of the runtime, are of one room; the kernel's interface is written once"},
		{from: []string{""}, except: []string{"cri", "node", "integration"}, forbid: []string{"k8s.io/cri-api", "k8s.io/cri-streaming", "k8s.io/cri-client"},
			reason: "CRI's types stay at the door"},
		{from: []string{""}, except: []string{"node"}, forbid: []string{"k8s.io/client-go"}, reason: "only the node agent knows of a cluster"},
		{from: []string{""}, except: []string{"node/api/apitest"}, forbid: []string{"k8s.io/client-go/kubernetes", "k8s.io/client-go/util/certificate", "k8s.io/component-helpers/apimachinery",
			"k8s.io/component-helpers/node/topology", "k8s.io/component-helpers/node/util ", "./node/api/apitest"}, reason: "client-go's clientset links every group of the API: 10 MB that every node's agent keeps in memory; use package node/api"},
		{from: []string{"node", "cmd/shimlet", "cgroups"}, except: []string{"cgroups/devicefilter"}, forbid: []string{"github.com/cilium/ebpf", "github.com/containerd/cgroups/v3/cgroup2",
			"./cgroups/devicefilter", "k8s.io/apimachinery/pkg/util/strategicpatch", "k8s.io/client-go/tools/record", "k8s.io/client-go/tools/events"},
			reason: "shimlet links it, and what it brings along is a megabyte that every node's agent keeps in memory"},
		{from: []string{""}, except: []string{"integration"}, forbid: []string{"./integration"}, reason: "tests' tools are not part of the programs"},
		{from: []string{""}, except: []string{"cmd"}, forbid: []string{"./cmd"}, reason: "wiring is at the top"},
		{from: []string{"integration"}, forbid: []string{"./runtime", "./image", "./network", "./cgroups", "./cri", "./keeper", "./launch", "./node", "./config"},
			reason: "black-box tests know programs, flags and sockets"},
		{from: []string{""}, forbid: []string{"C", "github.com/pkg/errors"}, reason: "static programs, and the standard library's errors"},
	}
	for _, p := range packages(t) {
		for _, rule := range rules {
			if !slices.ContainsFunc(rule.from, func(room string) bool { return below(p.room(), room) }) ||
				slices.ContainsFunc(rule.except, func(room string) bool { return below(p.room(), room) }) {
				continue
			}
			for _, imported := range p.Imports {
				for _, forbidden := range rule.forbid {
					if below(imported, strings.TrimSuffix(strings.Replace(forbidden, "./", module+"/", 1), "/")) {
						t.Errorf("%s imports %s: %s", p.ImportPath, imported, rule.reason)
					}
				}
			}
		}
	}
}

// below says whether name is prefix or inside of it; a prefix that ends with a space has no inside.
func below(name, prefix string) bool {
	return prefix == "" || name == strings.TrimSuffix(prefix, " ") || strings.HasPrefix(name, prefix+"/")
}

// What the documents tell a reader to type or to write exists: make targets, linked files, configuration that parses.
func TestDocumentsAreTrue(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range documents(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range regexp.MustCompile("(?m)(?:^|`|\\$ )make ([a-z][a-z-]*)").FindAllSubmatch(text, -1) {
			if !regexp.MustCompile(`(?m)^` + string(target[1]) + `:`).Match(makefile) {
				t.Errorf("%s: there is no `make %s`", name, target[1])
			}
		}
		for _, link := range regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`).FindAllSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), string(link[1]))); err != nil {
				t.Errorf("%s: a link leads nowhere: %v", name, err)
			}
		}
		checkBlocks(t, name, text)
	}
}

func checkBlocks(t *testing.T, name string, text []byte) {
	t.Helper()
	parsers := map[string]func([]byte) error{
		"toml": func(b []byte) error { return toml.Unmarshal(b, &map[string]any{}) },
		"yaml": func(b []byte) error { return yaml.Unmarshal(b, &map[string]any{}) },
		"json": func(b []byte) error { return json.Unmarshal(b, new(any)) },
	}
	for _, block := range regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```").FindAllSubmatch(text, -1) {
		parse, known := parsers[string(block[1])]
		if !known {
			continue
		}
		for document := range bytes.SplitSeq(block[2], []byte("\n---\n")) {
			if err := parse(document); err != nil {
				t.Errorf("%s: an example in %s does not parse: %v\n%s", name, block[1], err, block[2])
			}
		}
	}
}

func documents(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (name == ".git" || name == "bin" || entry.Name() == "testdata") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(name, ".md") {
			found = append(found, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
