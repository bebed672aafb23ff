package manifest

import (
	"fmt"
	"sort"
	"strconv"
)

// fields is the tree of JSON names that are honoured. A nil tree is honoured with everything below it; the name "*" stands for every key
// of a map. Lists are transparent: their elements are looked up in the tree of the list.
type fields map[string]fields

// Unhonoured lists the paths of a decoded Pod (maps, slices and scalars) that this node would ignore, each as spec.containers[0].tty.
// A null says nothing and is never refused.
func Unhonoured(written any) []string {
	refused := walk(nil, "", written, podFields())
	sort.Strings(refused)
	return refused
}

func walk(refused []string, path string, value any, known fields) []string {
	if known == nil || value == nil {
		return refused
	}
	switch value := value.(type) {
	case map[string]any:
		for name, below := range value {
			where := name
			if path != "" {
				where = path + "." + name
			}
			tree, ok := known[name]
			if !ok {
				tree, ok = known["*"]
			}
			switch {
			case ok:
				refused = walk(refused, where, below, tree)
			case below != nil:
				refused = append(refused, where)
			}
		}
	case []any:
		for i, below := range value {
			refused = walk(refused, path+"["+strconv.Itoa(i)+"]", below, known)
		}
	default:
		if len(known) > 0 {
			refused = append(refused, fmt.Sprintf("%s (an object was expected)", path))
		}
	}
	return refused
}

func podFields() fields {
	return fields{
		"apiVersion": nil,
		"kind":       nil,
		"metadata": {
			"name": nil, "namespace": nil, "labels": nil, "annotations": nil,
		},
		"spec":   specFields(),
		"status": {}, // empty, as kubectl --dry-run writes it
	}
}

func specFields() fields {
	return fields{
		"automountServiceAccountToken":  nil, // only false, see validate
		"containers":                    containerFields(),
		"dnsConfig":                     nil,
		"dnsPolicy":                     nil,
		"enableServiceLinks":            nil, // there are no services to link
		"hostAliases":                   nil,
		"hostIPC":                       nil,
		"hostNetwork":                   nil,
		"hostPID":                       nil,
		"hostUsers":                     nil,
		"hostname":                      nil,
		"initContainers":                containerFields(),
		"nodeName":                      nil, // only this node's, see validate
		"os":                            nil, // only linux, see validate
		"priorityClassName":             nil, // the two of the system, see validate
		"restartPolicy":                 nil,
		"securityContext":               podSecurityFields(),
		"shareProcessNamespace":         nil,
		"subdomain":                     nil,
		"setHostnameAsFQDN":             nil,
		"terminationGracePeriodSeconds": nil,
		"tolerations":                   nil, // a node without a cluster has no taints
		"volumes": {
			"name":     nil,
			"emptyDir": {"medium": nil, "sizeLimit": nil, "mode": nil},
			"hostPath": {"path": nil, "type": nil},
		},
	}
}

func podSecurityFields() fields {
	return fields{
		"appArmorProfile":          nil,
		"fsGroup":                  nil,
		"fsGroupChangePolicy":      nil,
		"runAsGroup":               nil,
		"runAsNonRoot":             nil,
		"runAsUser":                nil,
		"seLinuxOptions":           nil,
		"seccompProfile":           nil,
		"supplementalGroups":       nil,
		"supplementalGroupsPolicy": nil,
		"sysctls":                  nil,
	}
}

func containerFields() fields {
	return fields{
		"args":            nil,
		"command":         nil,
		"env":             {"name": nil, "value": nil, "valueFrom": {"fieldRef": nil}},
		"image":           nil,
		"imagePullPolicy": nil,
		"lifecycle": {
			"postStart":  hookFields(),
			"preStop":    hookFields(),
			"stopSignal": nil,
		},
		"livenessProbe":  probeFields(),
		"name":           nil,
		"ports":          nil,
		"readinessProbe": probeFields(),
		"resources":      {"limits": nil, "requests": nil},
		"restartPolicy":  nil, // init containers: Always, see validate
		"securityContext": {
			"allowPrivilegeEscalation": nil,
			"appArmorProfile":          nil,
			"capabilities":             nil,
			"privileged":               nil,
			"procMount":                nil, // only Default, see validate
			"readOnlyRootFilesystem":   nil,
			"runAsGroup":               nil,
			"runAsNonRoot":             nil,
			"runAsUser":                nil,
			"seLinuxOptions":           nil,
			"seccompProfile":           nil,
		},
		"startupProbe":             probeFields(),
		"stdin":                    nil,
		"stdinOnce":                nil,
		"terminationMessagePath":   nil,
		"terminationMessagePolicy": nil,
		"tty":                      nil,
		"volumeMounts": {
			"mountPath":         nil,
			"mountPropagation":  nil,
			"name":              nil,
			"readOnly":          nil,
			"recursiveReadOnly": nil, // only Disabled, see validate
			"subPath":           nil,
		},
		"workingDir": nil,
	}
}

func httpFields() fields {
	return fields{"host": nil, "httpHeaders": nil, "path": nil, "port": nil, "scheme": nil}
}

func hookFields() fields {
	return fields{"exec": nil, "httpGet": httpFields(), "sleep": nil}
}

func probeFields() fields {
	return fields{
		"exec":                          nil,
		"failureThreshold":              nil,
		"grpc":                          nil,
		"httpGet":                       httpFields(),
		"initialDelaySeconds":           nil,
		"periodSeconds":                 nil,
		"successThreshold":              nil,
		"tcpSocket":                     nil,
		"terminationGracePeriodSeconds": nil,
		"timeoutSeconds":                nil,
	}
}
