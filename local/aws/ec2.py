"""CloudFormation's rules of security groups as resources of their own, which the emulator does not know.

https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-ec2-securitygroupingress.html
https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-ec2-securitygroupegress.html
"""

from __future__ import annotations

from typing import Any

from local.aws import emulator


def _client() -> Any:
    region = emulator.module("core.responses").get_region()
    return emulator.client("ec2", emulator.root_credentials(), region)


def _permission(properties: dict[str, Any], group_property: str) -> dict[str, Any]:
    """Return the rule as the EC2 API wants it."""
    described = {"Description": properties["Description"]} if "Description" in properties else {}
    permission: dict[str, Any] = {"IpProtocol": properties["IpProtocol"]}
    permission |= {name: int(properties[name]) for name in ("FromPort", "ToPort") if name in properties}
    if group_property in properties:
        permission["UserIdGroupPairs"] = [{"GroupId": properties[group_property], **described}]
    elif "CidrIpv6" in properties:
        permission["Ipv6Ranges"] = [{"CidrIpv6": properties["CidrIpv6"], **described}]
    else:
        permission["IpRanges"] = [{"CidrIp": properties["CidrIp"], **described}]
    return permission


def _create_ingress(_logical_id: str, properties: dict[str, Any], _stack: str) -> tuple[str, dict[str, str]]:
    answer = _client().authorize_security_group_ingress(
        GroupId=properties["GroupId"], IpPermissions=[_permission(properties, "SourceSecurityGroupId")]
    )
    rule: str = answer["SecurityGroupRules"][0]["SecurityGroupRuleId"]
    return rule, {"Id": rule}


def _create_egress(_logical_id: str, properties: dict[str, Any], _stack: str) -> tuple[str, dict[str, str]]:
    answer = _client().authorize_security_group_egress(
        GroupId=properties["GroupId"], IpPermissions=[_permission(properties, "DestinationSecurityGroupId")]
    )
    rule: str = answer["SecurityGroupRules"][0]["SecurityGroupRuleId"]
    return rule, {"Id": rule}


def _delete_ingress(rule: str, properties: dict[str, Any]) -> None:
    _client().revoke_security_group_ingress(GroupId=properties["GroupId"], SecurityGroupRuleIds=[rule])


def _delete_egress(rule: str, properties: dict[str, Any]) -> None:
    _client().revoke_security_group_egress(GroupId=properties["GroupId"], SecurityGroupRuleIds=[rule])


emulator.resource_type("AWS::EC2::SecurityGroupIngress", _create_ingress, _delete_ingress)
emulator.resource_type("AWS::EC2::SecurityGroupEgress", _create_egress, _delete_egress)
