package translate

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// apiService is the one service that every pod gets the variables of: clients in a cluster find the API server by them.
const apiService = "kubernetes"

// serviceVariables are those of the pod's namespace, unless it wants none, and of the API server's service (pkg/kubelet/envvars).
func serviceVariables(pod *corev1.Pod, services []*corev1.Service) []Variable {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	chosen := map[string]*corev1.Service{}
	for _, s := range services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		if s.Namespace == corev1.NamespaceDefault && s.Name == apiService {
			if chosen[s.Name] == nil {
				chosen[s.Name] = s
			}
		} else if s.Namespace == pod.Namespace && links {
			chosen[s.Name] = s
		}
	}
	var env []Variable
	for _, s := range chosen {
		env = append(env, variablesOf(s)...)
	}
	slices.SortFunc(env, func(a, b Variable) int { return cmp.Compare(a.name, b.name) })
	return env
}

func variablesOf(s *corev1.Service) []Variable {
	prefix := variableName(s.Name)
	port := func(p *corev1.ServicePort) string { return strconv.Itoa(int(p.Port)) }
	env := []Variable{{prefix + "_SERVICE_HOST", s.Spec.ClusterIP}, {prefix + "_SERVICE_PORT", port(&s.Spec.Ports[0])}}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.Name != "" {
			env = append(env, Variable{prefix + "_SERVICE_PORT_" + variableName(p.Name), port(p)})
		}
		protocol := strings.ToLower(string(cmp.Or(p.Protocol, corev1.ProtocolTCP)))
		url := protocol + "://" + net.JoinHostPort(s.Spec.ClusterIP, port(p))
		if i == 0 {
			env = append(env, Variable{prefix + "_PORT", url})
		}
		each := fmt.Sprintf("%s_PORT_%d_%s", prefix, p.Port, strings.ToUpper(protocol))
		env = append(env, Variable{each, url}, Variable{each + "_PROTO", protocol}, Variable{each + "_PORT", port(p)}, Variable{each + "_ADDR", s.Spec.ClusterIP})
	}
	return env
}

func variableName(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
