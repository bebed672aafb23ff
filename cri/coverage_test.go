package cri

import (
	"bufio"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const coverageFile = "../docs/cri-coverage.md"

// TestCoverageTableIsComplete compares docs/cri-coverage.md with the descriptors of the proto: a field that CRI gains or loses fails it.
func TestCoverageTableIsComplete(t *testing.T) {
	want := requestFields()
	got := readCoverage(t)
	for _, field := range slices.Sorted(maps.Keys(want)) {
		if _, ok := got[field]; !ok {
			t.Errorf("%s has no row for %s", coverageFile, field)
		}
	}
	for _, field := range slices.Sorted(maps.Keys(got)) {
		if !want[field] {
			t.Errorf("%s has a row for %s, which no request has", coverageFile, field)
		}
	}
}

// requestFields are the fields of all requests and of the messages in them, as Message.field.
func requestFields() map[string]bool {
	fields := make(map[string]bool)
	seen := make(map[protoreflect.FullName]bool)
	var walk func(protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] || m.IsMapEntry() {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			fields[string(m.Name())+"."+string(f.Name())] = true
			if f.Message() != nil {
				walk(f.Message())
			}
		}
	}
	services := criv1.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			walk(methods.Get(j).Input())
		}
	}
	return fields
}

// readCoverage reads the rows "| `Message.field` | status | how |".
func readCoverage(t *testing.T) map[string]string {
	t.Helper()
	f, err := os.Open(coverageFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows := make(map[string]string)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		cells := strings.Split(lines.Text(), "|")
		if len(cells) < 5 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			continue
		}
		field := strings.Trim(strings.TrimSpace(cells[1]), "`")
		status, how := strings.TrimSpace(cells[2]), strings.TrimSpace(cells[3])
		if !slices.Contains([]string{"honoured", "refused", "not applicable"}, status) {
			t.Errorf("%s: %s: status %q is none of honoured, refused, not applicable", coverageFile, field, status)
		}
		if how == "" {
			t.Errorf("%s: %s: no word how", coverageFile, field)
		}
		if _, twice := rows[field]; twice {
			t.Errorf("%s: %s has two rows", coverageFile, field)
		}
		rows[field] = status
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return rows
}
