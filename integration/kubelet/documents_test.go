package kubelet_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/shimd/shimd/integration/tools"
)

// The kubelet accepts every configuration that docs/kubelet.md tells to write, and becomes healthy on shimd with it.
func TestKubeletTakesTheDocumentedConfigurations(t *testing.T) {
	if reason != "" {
		t.Skip(reason)
	}
	root, err := tools.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "kubelet.md"))
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllSubmatch(text, -1) {
		for _, document := range regexp.MustCompile(`(?m)^---\n`).Split(string(block[1]), -1) {
			var settings map[string]any
			if err := yaml.Unmarshal([]byte(document), &settings); err != nil {
				t.Fatal(err)
			}
			if settings["kind"] != "KubeletConfiguration" {
				continue
			}
			tried++
			// Places on this machine are the test's own.
			maps.DeleteFunc(settings, func(key string, _ any) bool {
				return key == "containerRuntimeEndpoint" || key == "staticPodPath" || key == "podCIDR"
			})
			t.Run(fmt.Sprint(tried), func(t *testing.T) { startNode(t, nil, settings) })
		}
	}
	if tried == 0 {
		t.Error("the document has no configuration any more")
	}
}
