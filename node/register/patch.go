package register

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/shimd/shimd/node/api"
)

// patch makes one node of another. Addresses are replaced as a whole: they are declared as a list that is merged by type, of which there can be several.
func patch(before, after *corev1.Node) ([]byte, error) {
	after = after.DeepCopy()
	after.Spec = before.Spec
	addresses := after.Status.Addresses
	replace := len(before.Status.Addresses) > 0 && !apiequality.Semantic.DeepEqual(before.Status.Addresses, addresses)
	if replace {
		after.Status.Addresses = before.Status.Addresses
	}
	data, err := api.StrategicPatch(before, after)
	if err != nil || !replace {
		return data, err
	}
	change := map[string]any{}
	if err := json.Unmarshal(data, &change); err != nil {
		return nil, fmt.Errorf("adding addresses to the change of the node: %w", err)
	}
	status, ok := change["status"].(map[string]any)
	if !ok {
		status = map[string]any{}
		change["status"] = status
	}
	list := []any{}
	for _, a := range addresses {
		list = append(list, a)
	}
	status["addresses"] = append(list, map[string]any{"$patch": "replace"})
	return json.Marshal(change)
}
