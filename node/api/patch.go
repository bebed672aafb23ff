package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
)

// mergeKeys are the lists whose items the API server merges by a key, of those in a pod's status and a node; all others it replaces as a whole, and so
// are those whose keys are not distinct.
var mergeKeys = map[string]string{
	"metadata.ownerReferences":                    "uid",
	"status.addresses":                            "type",
	"status.conditions":                           "type",
	"status.hostIPs":                              "ip",
	"status.podIPs":                               "ip",
	"status.resourceClaimStatuses":                "name",
	"status.nodeAllocatableResourceClaimStatuses": "resourceClaimName",
}

// StrategicPatch is the strategic merge patch that makes one object of another, for a pod's or a node's metadata and status; "{}" when they are the
// same. apimachinery's strategicpatch, which does so for every kind, brings along OpenAPI, its documents and three more parsers: 1 MB of shimlet.
func StrategicPatch(before, after any) ([]byte, error) {
	from, err := fields(before)
	if err != nil {
		return nil, fmt.Errorf("encoding the object as it was: %w", err)
	}
	to, err := fields(after)
	if err != nil {
		return nil, fmt.Errorf("encoding the object: %w", err)
	}
	return json.Marshal(changes("", from, to))
}

func fields(object any) (map[string]any, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	found := map[string]any{}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber() // floats would not hold all numbers
	return found, decoder.Decode(&found)
}

// changes are the fields of an object that differ; those that are gone are null.
func changes(path string, before, after map[string]any) map[string]any {
	found := map[string]any{}
	for name, now := range after {
		was, had := before[name]
		if !had {
			found[name] = now
			continue
		}
		if reflect.DeepEqual(was, now) {
			continue
		}
		at := name
		if path != "" {
			at = path + "." + name
		}
		switch now := now.(type) {
		case map[string]any:
			if was, same := was.(map[string]any); same {
				found[name] = changes(at, was, now)
				continue
			}
		case []any:
			was, same := was.([]any)
			key := mergeKeys[at]
			switch {
			case !same || key == "":
			case !distinct(key, was) || !distinct(key, now): // a node has several addresses of a type
				found[name] = append(slices.Clone(now), map[string]any{"$patch": "replace"})
				continue
			default:
				items, order := listChanges(key, was, now)
				found["$setElementOrder/"+name] = order
				if len(items) > 0 {
					found[name] = items
				}
				continue
			}
		}
		found[name] = now
	}
	for name := range before {
		if _, has := after[name]; !has {
			found[name] = nil
		}
	}
	return found
}

func distinct(key string, items []any) bool {
	seen := map[any]bool{}
	for _, item := range items {
		item, ok := item.(map[string]any)
		if !ok || seen[item[key]] {
			return false
		}
		seen[item[key]] = true
	}
	return true
}

// listChanges are the items of a merged list that differ, and the order that all are to be in.
func listChanges(key string, before, after []any) (items, order []any) {
	old := map[any]map[string]any{}
	for _, item := range before {
		if item, ok := item.(map[string]any); ok {
			old[item[key]] = item
		}
	}
	for _, item := range after {
		item, ok := item.(map[string]any)
		if !ok {
			continue
		}
		order = append(order, map[string]any{key: item[key]})
		was, had := old[item[key]]
		delete(old, item[key])
		if !had {
			items = append(items, item)
			continue
		}
		if change := changes("", was, item); len(change) > 0 {
			change[key] = item[key]
			items = append(items, change)
		}
	}
	for _, item := range before { // in their order
		if item, ok := item.(map[string]any); ok && old[item[key]] != nil {
			items = append(items, map[string]any{"$patch": "delete", key: item[key]})
		}
	}
	return items, order
}
